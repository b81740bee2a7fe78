"""What other programs call the keys of a configuration: hints for those who bring their habits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_BY_OURS: Mapping[str, str] = {
    # ours: theirs (the Reptile study, MELoRA and its YAML, learn2learn, higher, TorchOpt, Betty, Trainer, PEFT)
    "n_way": "ways n_ways way num_classes_per_task n_class",
    "k_shot": "shots shot k_support k_spt kshot num_shots n_shot n_support",
    "n_query": "k_query k_qry query_shots num_query n_queries kquery test_shots",
    "n_tasks": "num_tasks n_tasks_list num_train_tasks n_train_tasks tasks num_tasks_train",
    "n_validation_tasks": "num_eval_tasks num_val_tasks n_eval_tasks",
    "n_test_tasks": "num_meta_test_tasks num_test_tasks meta_test_tasks",
    "meta_batch": "meta_batch_size meta_bsz default_meta_batch_size task_num tasks_per_batch tasks_per_step",
    "inner_lr": "fast_lr adapt_lr adaptation_lr task_lr lr_inner step_size inner_learning_rate base_lr update_lr",
    "inner_steps": "k_inner adaptation_steps adapt_steps num_inner_steps n_inner_steps n_inner_iter inner_iters "
    "update_step default_num_steps num_adaptation_steps inner_loop_steps",
    "eval_inner_steps": "k_eval_inner eval_steps_inner test_adaptation_steps update_step_test test_inner_steps",
    "inner_batch_size": "inner_batch support_batch_size",
    "inner_optimizer": "inner_opt diffopt inner_optim",
    "outer_lr": "meta_lr outer_learning_rate lr_outer outer_step_size meta_step_size meta_learning_rate lr_meta "
    "reptile_lr epsilon",
    "outer_optimizer": "meta_optimizer meta_opt outer_optim meta_optim",
    "outer_clip": "gradient_clipping max_grad_norm clip_grad grad_clip",
    "outer_warmup": "warmup_steps num_warmup_steps",
    "max_steps": "num_meta_steps num_iterations n_iterations iterations train_iters meta_steps outer_steps num_steps "
    "n_meta_steps meta_iterations num_outer_steps",
    "eval_every": "eval_interval valid_step eval_steps validation_interval eval_freq",
    "patience": "early_stopping_patience",
    "micro_batch": "default_micro_batch gradient_accumulation gradient_accumulation_steps accumulation_steps",
    "curvature": "hessian_approximation hessian_method hvp",
    "cg_steps": "cg_iterations cg_iters n_cg",
    "proximal": "reg_params lambda lam imaml_lambda proximal_weight",
    "learn_rates": "meta_sgd metasgd learn_lr",
    "rank": "lora_r lora_rank default_rank r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout dropout1",
    "dropout_inner": "dropout2",
    "targets": "target_modules lora_target_modules",
    "backbone": "model_name selected_model model_name_or_path pretrained_model base_model",
    "checkpointing": "gradient_checkpointing checkpoint_lora_only",
    "load_in_8bit": "load_8bit int8 quantize",
    "max_length": "max_seq_length max_seq_len seq_len sequence_length",
    "text_column": "text_col text_field",
    "label_column": "label_col label_field",
    "path": "data_file csv_file file data_path csv_path",
    "memory_budget": "max_memory memory_limit",
    "measure_memory": "memory_profiling detailed_breakdown profile_memory",
    "d_model": "hidden_size d_model_values n_embd embed_dim",
    "n_layers": "num_layers num_hidden_layers n_layer n_layers_values",
    "n_heads": "num_heads num_attention_heads n_head",
    "n_sequence": "n_seq block_size context_length",
    "width": "hidden_dim hidden hidden_units width_list",
    "filters": "hidden_size channels n_filters",
    "depth": "num_blocks n_hidden_layers",
    "epochs": "num_epochs num_train_epochs n_epochs",
    "max_epochs": "epochs num_epochs num_train_epochs n_epochs",
    "batch_size": "bsz per_device_train_batch_size train_batch_size batch",
    "lower_lr": "inner_lr base_lr classifier_lr",
    "upper_lr": "meta_lr outer_lr reweight_lr hypergradient_lr",
    "unroll_steps": "unroll unrolled_steps inner_steps",
    "solver": "hypergradient_method darts neumann hypergrad",
    "clip_norm": "max_grad_norm gradient_clipping grad_clip",
}

_SENTENCES: Mapping[str, str] = {
    "first_order": "here it is a method: method=fomaml",
    "second_order": "here it is a method: method=maml (fomaml is first-order)",
    "track_higher_grads": "here it is a method: method=maml, or fomaml without second derivatives",
    "anil": "here it is a pattern: adapt=[head*]",
    "allow_unused": "it is not needed: a parameter without a gradient gets zero",
    "allow_nograd": "it is not needed: a parameter without a gradient gets zero",
    "seed": "seeds are not a key: `seeds`, such as 0,1,2 or 0-4",
    "seeds": "seeds are not a key: `seeds`, such as 0,1,2 or 0-4",
    "random_seed": "seeds are not a key: `seeds`, such as 0,1,2 or 0-4",
    "device": "where trials run is not a key: `devices`, such as cuda:0",
    "cuda": "where trials run is not a key: `devices`, such as cuda:0",
    "num_workers": "where trials run is not a key: `workers`",
    "output_dir": "the study's folder is not a key: `out`",
    "experiment_name": "the study's folder is not a key: `out`",
    "save_dir": "the study's folder is not a key: `out`",
    "skip_baselines": "baselines are not a key: switch the argument `baselines` off",
    "hyperparameter_search": "here it is `tune`: a number of trials",
    "n_trials": "here it is `tune`: a number of trials",
    "mode": "there are no modes: one command runs, concludes and reports, and `metascale evaluate` evaluates a run",
}
"""What is not a key here, or a value of one; for every recipe that has no key of that name."""


def _by_theirs() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for ours, names in _BY_OURS.items():
        for name in names.split():
            found[name] = (*found.get(name, ()), ours)
    rates = ("inner_lr", "outer_lr", "lower_lr", "upper_lr")
    found |= {"lr": rates, "learning_rate": ("lr", *rates), "optimizer": ("inner_optimizer", "outer_optimizer")}
    return {**found, "weight_decay": ("inner_weight_decay", "outer_weight_decay")}


THEIRS = _by_theirs()
"""By another program's name, in lower case with ``_``: the keys that it may mean here."""


def hint(name: object, known: Collection[str]) -> str:
    """What ``name`` of another program is called here: ``here it is 'outer_lr'``; empty where that is not known.

    Args:
        known: the keys that there are; where none of them is the counterpart, the hint says so.

    Example:
        >>> hint("meta_lr", ["inner_lr", "outer_lr"])
        "here it is 'outer_lr'"
        >>> hint("lr", ["inner_lr", "outer_lr"])
        "here it is 'inner_lr' or 'outer_lr'"
        >>> hint("lora_r", ["inner_lr", "outer_lr"])
        "other recipes call it 'rank', and this one has nothing of the kind"
    """
    plain = str(name).lower().replace("-", "_").rsplit(".", 1)[-1]
    ours = THEIRS.get(plain, ())
    here = [f"'{key}'" for key in ours if key in known]
    if here:
        return f"here it is {' or '.join(here)}"
    if plain in _SENTENCES or not ours:
        return _SENTENCES.get(plain, "")
    elsewhere = " or ".join(f"'{key}'" for key in ours)
    return f"other recipes call it {elsewhere}, and this one has nothing of the kind"

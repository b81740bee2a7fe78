"""Meta-train models, vary any scale axis in a resumable study, and get a scaling law with honest error bars.

Importing this package is cheap: torch, transformers and peft load when a part that needs them is first used.
"""

__version__ = "0.1.0"

#!/usr/bin/env bash
# Build a release and try it as a user would: sdist and wheel, twine check, the wheel in a clean environment, the
# sdist's own tests. Uploads nothing; the last line says how.
# Usage: scripts/release.sh            (PYTHON=python3.12 chooses the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
grep -q "^## \[$VERSION\]" CHANGELOG.md || { echo "CHANGELOG.md has no section [$VERSION]" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build metascale $VERSION"
"$PYTHON" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build twine
rm -rf dist build
"$work/tools/bin/python" -m build --outdir dist . > "$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
"$work/tools/bin/twine" check --strict dist/*

echo "== the wheel in a clean environment"
"$PYTHON" -m venv "$work/user"
"$work/user/bin/pip" install --quiet -c constraints.txt "dist/metascale-$VERSION-py3-none-any.whl"
cd "$work"
printf 'n_tasks,loss\n2,2.02\n5,1.55\n10,1.30\n20,1.10\n50,0.92\n100,0.82\n' > table.csv
[ "$(user/bin/metascale --version)" = "$VERSION" ]
user/bin/metascale fit table.csv --bootstrap 50 --out fitted > fit.txt
test -s fitted/law.json && head -3 fit.txt
user/bin/python -c 'import sys, metascale as ms; ms.fit, ms.forecast; sys.exit("torch" in sys.modules)'

echo "== tests from the sdist"
cd - > /dev/null
tar -xzf "dist/metascale-$VERSION.tar.gz" -C "$work"
"$work/user/bin/pip" install --quiet -c constraints.txt pytest pytest-timeout hypothesis
(cd "$work/metascale-$VERSION" && "$work/user/bin/python" -m pytest -q -p no:cacheprovider \
  tests/laws/test_table.py tests/laws/test_contrasts.py tests/core/test_files.py tests/core/test_lazy.py tests/test_packaging.py)

echo
echo "dist/ is ready. To publish:  git tag v$VERSION && git push origin v$VERSION && twine upload dist/*"

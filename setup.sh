#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the image: it installs the grader beside the platform's own Python.
#
# AUTOGRADER_VENV    the virtual environment to make (default /opt/autograder/venv, where run_autograder looks)
# AUTOGRADER_PYTHON  the Python to make it from (default /usr/bin/python3: what students' code runs on must be readable
#                    by every user, and a Python under /root is not)
set -euo pipefail
umask 022

source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${AUTOGRADER_VENV:-/opt/autograder/venv}
python=${AUTOGRADER_PYTHON:-/usr/bin/python3}
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Nobody but root may read the hidden suite; first of all, so that it holds even where a later step fails.
chmod -R go= "$source"

missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null || missing+=(libseccomp2)
if [ ${#missing[@]} -gt 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv"
bash "$source/tools/install-torch" "$venv/bin/python" cpu
"$venv/bin/python" -m pip install --quiet "$source"

# pip may have left a build folder; and a last look whether what was installed starts at all.
chmod -R go= "$source"
"$venv/bin/autograder" --version

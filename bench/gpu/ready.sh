# Sourced by run.sh and study.sh in the project's root: unpacks .gpu/ into a new folder, $WORK, and sets up Python.
#
# DEVICE  cuda, or cpu for a rehearsal
# OUT     the folder of the results
# DATA    images, as the sweeps' --data takes them; those of .gpu/ if it is not set
# PYTHON  the Python to use; without .gpu/ it needs everything

DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3}
OUT=${OUT:?is not set: the folder of the results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
BEGAN=$SECONDS

say() { echo "[$((SECONDS - BEGAN)) s] $*"; }

PYTHONPATH=$PWD
if [ -d .gpu/wheels ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$WORK/site" .gpu/wheels/*.whl || exit 1
    PYTHONPATH=$WORK/site:$PYTHONPATH
fi
if [ -z "${DATA:-}" ]; then
    [ -f .gpu/images.tar ] || { echo "there are no images: run make gpu-bundle first, or set DATA" >&2; exit 1; }
    mkdir "$WORK/images"
    tar -xf .gpu/images.tar -C "$WORK/images" || exit 1
    images=$(dirname "$(find "$WORK/images" -type d -name train -print -quit)")
    if [ "$DEVICE" = cpu ]; then  # a rehearsal takes 300 images of each class, since reading all takes a while
        for class in "$images"/*/*/; do (cd "$class" && find . -type f | sort | tail -n +301 | xargs -r rm); done
    fi
    DATA=folder:$images
fi
export TORCHINDUCTOR_CACHE_DIR=$WORK/compiled TRITON_CACHE_DIR=$WORK/triton
export DEVICE OUT DATA WORK PYTHON PYTHONPATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0

#!/usr/bin/env bash
# From the project's root: fills .gpu/, which git ignores, with what a bare GPU machine without a network lacks.
#
#     IMAGES=PATH make gpu-bundle     PATH: a folder with train/CLASS and test/CLASS, or a tar archive of one
#
# That machine has Python 3.12 with PyTorch, torchvision, CuPy, NumPy, SciPy, pandas, PyArrow, Matplotlib, scikit-learn,
# safetensors, threadpoolctl, hypothesis and pytest. It has no Ray. Pillow is brought along although it has one: another
# version may decode JPEGs into other pixels, and a sweep of those is another sweep.
set -eu
NEEDED="zarr numcodecs obstore array-api-compat donfig pyyaml google-crc32c pillow rich markdown-it-py mdurl pygments"
MOST=$((60 * 2**20))  # bytes that may travel, with the code
images=${IMAGES:?is not set: a folder with train/CLASS and test/CLASS, or a tar archive of one}
python=${PYTHON:-python3} folder=.gpu

rm -rf "$folder"
mkdir -p "$folder/wheels"
pinned=()
for name in $NEEDED; do
    pinned+=("$(grep -i "^$name==" constraints.txt)") || { echo "constraints.txt does not name $name" >&2; exit 1; }
done
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do platforms+=(--platform "${tag}_x86_64"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$folder/wheels" "${pinned[@]}"

if [ -d "$images" ]; then
    tar -cJf "$folder/images.tar" -C "$images" .
else
    cp "$images" "$folder/images.tar"  # tar finds out how it is compressed
fi

changed=$(git diff --quiet HEAD && echo "" || echo " with changes")
echo "$(git rev-parse --short HEAD)$changed" > "$folder/commit"

code=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb | tail -n 1 | cut -f 1)
bundle=$(du -sb "$folder" | cut -f 1)
printf '%s: %.1f MiB, with the code %.1f MiB\n' "$folder" "$(bc -l <<< "$bundle / 2^20")" "$(bc -l <<< "($bundle + $code) / 2^20")"
if [ $((code + bundle)) -gt $MOST ]; then
    echo "that is more than $((MOST / 2**20)) MiB: bring fewer images" >&2
    exit 1
fi

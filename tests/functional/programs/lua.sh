set -e
tar -xzf "$src"
cd lua-*
make linux SHELL="$BASH" -j"$(nproc)"
make install SHELL="$BASH" INSTALL_TOP="$out"
"$out/bin/lua" -e 'print(_VERSION .. " works")'

set -e
export CONFIG_SHELL="$BASH"
tar -xzf "$src"
cd hello-*
"$BASH" ./configure --prefix="$out" --disable-dependency-tracking --disable-nls
make
make install
"$out/bin/hello"

set -e
tar -xf "$src"
cd zlib-*
CC=gcc "$BASH" ./configure --prefix="$out"
make SHELL="$BASH"
make test SHELL="$BASH"
make install SHELL="$BASH"

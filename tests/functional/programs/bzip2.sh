set -e
tar -xf "$src"
cd bzip2-*
make SHELL="$BASH" CC=gcc
make test SHELL="$BASH"
make install SHELL="$BASH" PREFIX="$out"

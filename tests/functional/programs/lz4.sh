set -e
tar -xf "$src"
cd lz4-*
make SHELL="$BASH" CC=gcc lib lz4
make SHELL="$BASH" CC=gcc prefix="$out" install
"$out/bin/lz4" -9 lib/lz4.c packed.lz4
"$out/bin/lz4" -d packed.lz4 again.c
cmp lib/lz4.c again.c

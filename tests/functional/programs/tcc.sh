set -e
mkdir tree
cd tree
tar -xf "$src" # without a folder of its own
"$BASH" ./configure --prefix="$out" --cc=gcc
make SHELL="$BASH"
make install SHELL="$BASH"
echo 'int answer(void) { return 42; }' >answer.c
"$out/bin/tcc" -c answer.c -o answer.o

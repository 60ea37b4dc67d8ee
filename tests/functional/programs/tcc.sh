set -e
tools="${PATH%/bin}"
mkdir tree
cd tree
tar -xf "$src" # without a folder of its own
"$BASH" ./configure --prefix="$out" --cc=gcc \
  --sysincludepaths="{B}/include:$tools/include/x86_64-linux-gnu:$tools/include"
make SHELL="$BASH"
make install SHELL="$BASH"
echo 'int answer(void) { return 42; }' >answer.c
"$out/bin/tcc" -c answer.c -o answer.o

set -e
# The builder is busybox as `sh`, which finds its other applets by itself.
echo "copying"
cp -a "$raw" "$out"
chmod -R u+w "$out"
cd "$out"
ln -s . usr
loader="$out/lib64/ld-linux-x86-64.so.2"
libraries="$out/lib/x86_64-linux-gnu"
patchelf() {
  "$raw/lib64/ld-linux-x86-64.so.2" --library-path "$raw/lib/x86_64-linux-gnu:$raw/lib" \
    "$raw/bin/patchelf" "$@"
}

echo "looking for programs and libraries"
find bin sbin lib libexec -type f \( -perm /111 -o -name '*.so*' \) ! -name 'ld-linux*' \
  ! -name libc.so.6 -exec grep -l "^.ELF" {} + >"$TMPDIR/elf"
echo "$(wc -l <"$TMPDIR/elf") files"
# shellcheck disable=SC2046 # no name here has a blank
patchelf --set-rpath "$libraries:$out/lib" $(cat "$TMPDIR/elf")
programs=$(grep -v '\.so' "$TMPDIR/elf" | xargs grep -l /lib64/ld-linux-x86-64.so.2)
# shellcheck disable=SC2086
patchelf --set-interpreter "$loader" $programs

mv bin/x86_64-linux-gnu-gcc-12 bin/gcc.real
rm -f bin/gcc-12 bin/gcc
cat >bin/gcc <<END
#!$out/bin/bash
exec $out/bin/gcc.real --sysroot=$out -B$libraries \\
  -Wl,--dynamic-linker=$loader -Wl,-rpath,$libraries "\$@"
END
chmod +x bin/gcc
ln -s gcc bin/cc
echo "done"

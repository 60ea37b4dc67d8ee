set -e
tar -xf "$src"
cd git-*
make=(make uname_S=Linux SHELL_PATH="$BASH" SHELL="$BASH" CC=gcc prefix="$out" CFLAGS="-O1 -I$zlib/include" LDFLAGS="-L$zlib/lib"
  NO_CURL=1 NO_OPENSSL=1 NO_EXPAT=1 NO_PERL=1 NO_PYTHON=1 NO_TCLTK=1 NO_GETTEXT=1 NO_REGEX=NeedsStartEnd
  INSTALL_SYMLINKS=1)
"${make[@]}"
"${make[@]}" install
mkdir "$TMPDIR/tree"
cd "$TMPDIR/tree"
export HOME="$TMPDIR" PATH="$out/bin:$PATH"
git init -q .
git -c user.name=a -c user.email=b commit -q --allow-empty -m first
test "$(git log --format=%s)" = first

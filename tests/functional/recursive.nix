# A builder that talks to a store: its script has Nix's programs, busybox's, and an expression to build.
{ bb, nix, name, body, stranger ? "", features ? [ "recursive-nix" ], settings ? "" }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  system = "x86_64-linux";
  builder = "${busybox}/bin/sh";
  derived = derivation { name = "derived"; inherit system builder; args = [ "-c" "echo ${busybox} > $out" ]; };
  chosen = if settings == "" then { } else { NIXBUILD_INPUT_DATABASE = "true"; inherit derived; };
in derivation (chosen // {
  inherit name busybox stranger system builder;
  requiredSystemFeatures = features;
  nix = builtins.path { path = /. + nix; name = "loose-nix"; };
  inner = ./recursive_inner.nix;
  args = [ "-c" ''
    set -e
    export PATH="$nix/bin:$TMPDIR/bin" HOME="$TMPDIR" NIX_CONFIG="substituters ="
    "$busybox/bin/busybox" mkdir bin
    "$busybox/bin/busybox" --install -s bin
    build() { nix-build --no-out-link $inner --argstr busybox $busybox --argstr name "$1" --argstr script "$2"; }
    ${body}
  '' ];
})

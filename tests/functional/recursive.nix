# A builder that talks to a store: it asks about its inputs, adds a file, builds something, and refers to that.
{ bb, nix, tag, body }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
in derivation {
  name = "recursive-${tag}";
  system = "x86_64-linux";
  requiredSystemFeatures = [ "recursive-nix" ];
  inherit busybox tag;
  nix = builtins.path { path = /. + nix; name = "loose-nix"; };
  builder = "${busybox}/bin/sh";
  inner = ./recursive_inner.nix;
  args = [ "-c" ''
    set -e
    export PATH="$nix/bin:$TMPDIR/bin"
    "$busybox/bin/busybox" mkdir bin
    "$busybox/bin/busybox" --install -s bin
    export HOME="$TMPDIR" NIX_CONFIG="substituters ="
    ${body}
  '' ];
}

# A diamond of derivations: `width` of them refer to one at the bottom, one at the top to all of them.
{ tag, bb, width ? 3, bad ? -1 }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  node = name: inputs: script: derivation {
    name = "graph-${tag}-${name}";
    system = "x86_64-linux";
    inherit inputs;
    builder = "${busybox}/bin/sh";
    args = [ "-c" script ];
  };
  bottom = node "bottom" [ ] "echo bottom > $out";
  middle = n: node "middle-${toString n}" [ bottom ]
    (if n == bad then "echo no-${toString n} >&2; exit 1" else "read word < $inputs; echo $word ${toString n} > $out");
  middles = builtins.genList middle width;
in {
  inherit bottom;
  top = node "top" middles "for i in $inputs; do read a b < $i; echo $b; done > $out";
}

# A closure of some paths: what is copied to count round trips.
{ bb }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  make = name: needs: derivation {
    inherit name needs;
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    args = [ "-c" "mkdir $out; echo $needs > $out/needs; echo ${name} > $out/name" ];
  };
  leaves = map (n: make "leaf-${toString n}" [ ]) (builtins.genList (n: n) 3);
in { tree = make "tree" (leaves ++ [ (make "branch" leaves) ]); }

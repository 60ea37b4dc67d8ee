# Every case of this folder: { "file.case" = derivation; }. A new file is found by itself: a function of the
# kit below that returns cases. A case is what `make` takes, or a derivation.
{ bb }:
let
  kit = rec {
    busybox = builtins.path { path = /. + bb; name = "bb"; };
    # A derivation whose builder is busybox with a script; every attribute can be set otherwise.
    make = name: attributes: derivation ({
      name = "corpus-${name}";
      system = "x86_64-linux";
      builder = "${busybox}/bin/sh";
      args = [ "-e" "-c" (attributes.script or "echo ${name} > $out") ];
    } // removeAttrs attributes [ "script" ]);
    # The same with structured attributes: the script finds its output as ${placeholder "out"}.
    structured = attributes: { __structuredAttrs = true; } // attributes;
    out = placeholder "out";
    # Something to depend on: `leaf` refers to nothing, `branch` to it, `tree` to both.
    leaf = make "leaf" { };
    branch = make "branch" { inherit leaf; script = "mkdir $out; echo $leaf > $out/leaf"; };
    tree = make "tree" { inherit branch leaf; script = "echo $branch $leaf > $out"; };
    text = builtins.toFile "corpus-text" "text\n";
  };
  files = builtins.filter (file: file != "default.nix" && builtins.match ".*\\.nix" file != null)
    (builtins.attrNames (builtins.readDir ./.));
  cases = file:
    let
      group = builtins.head (builtins.match "(.*)\\.nix" file);
      found = import (./. + "/${file}") kit;
    in map (case: {
      name = "${group}.${case}";
      value = if found.${case} ? drvPath then found.${case} else kit.make "${group}-${case}" found.${case};
    }) (builtins.attrNames found);
in builtins.listToAttrs (builtins.concatMap cases files)

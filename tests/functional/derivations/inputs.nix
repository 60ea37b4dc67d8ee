kit: with kit; {
  text = { input = text; script = "cat $input > $out"; };
  text_with_references = { input = builtins.toFile "refers" "see ${text}\n"; script = "cat $input > $out"; };
  source_folder = { input = builtins.path { path = ./.; name = "src"; filter = path: kind: baseNameOf path == "names.nix"; }; script = "ls $input > $out"; };
  chain = { input = make "chain-2" { input = make "chain-1" { input = make "chain-0" { }; script = "cat $input > $out; echo 1 >> $out"; }; script = "cat $input > $out; echo 2 >> $out"; }; script = "cat $input > $out; echo 3 >> $out"; };
  diamond = { inputs = map (n: make "side-${toString n}" { inherit leaf; n = toString n; script = "echo $n $leaf > $out"; }) [ 1 2 3 4 ]; script = "cat $inputs > $out"; };
  executable_input = { tool = make "tool" { script = "echo '#! ${busybox}/bin/sh' > $out; echo 'echo ran' >> $out; chmod +x $out"; }; script = "$tool > $out"; };
  builder_is_an_input = { builder = make "builder" { script = "echo '#! ${busybox}/bin/sh' > $out; echo 'echo built > $out' >> $out; chmod +x $out"; }; args = [ ]; };
}

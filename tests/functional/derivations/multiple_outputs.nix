kit: with kit; {
  two = { outputs = [ "out" "dev" ]; script = "echo o > $out; echo d > $dev"; };
  first_is_not_out = { outputs = [ "bin" "out" ]; script = "echo o > $out; echo b > $bin"; };
  without_out = { outputs = [ "lib" ]; script = "echo l > $lib"; };
  five = { outputs = [ "out" "a" "b" "c" "d" ]; script = "for i in $out $a $b $c $d; do mkdir $i; echo x > $i/f; done"; };
  chain = { outputs = [ "out" "a" "b" ]; script = "echo $a > $out; echo $b > $a; echo end > $b"; };
  self_and_other = { outputs = [ "out" "a" ]; script = "echo $out $a > $out; echo x > $a"; };
  cycle = { outputs = [ "out" "a" ]; script = "echo $a > $out; echo $out > $a"; };
  one_missing = { outputs = [ "out" "dev" ]; script = "echo o > $out"; };
  equal_contents = { outputs = [ "out" "dev" ]; script = "echo same > $out; echo same > $dev"; };
  list_variable = { outputs = [ "out" "dev" ]; script = "echo $outputs > $out; echo x > $dev"; };
  used_by_another = { input = (make "two-outputs" { outputs = [ "out" "dev" ]; script = "echo o > $out; echo d > $dev"; }).dev; script = "cat $input > $out; ls /nix/store | grep -c two-outputs >> $out"; };
}

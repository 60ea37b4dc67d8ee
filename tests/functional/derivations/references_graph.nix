# Facts 5.4 to 5.6: exportReferencesGraph in both forms.
kit: with kit; {
  one = { exportReferencesGraph = [ "graph" leaf ]; script = "cat graph > $out"; };
  closure = { exportReferencesGraph = [ "graph" tree ]; script = "cat graph > $out"; };
  several = { exportReferencesGraph = [ "one" leaf "two" branch "a.b-c" tree ]; script = "cat one two a.b-c > $out; ls -A | sort >> $out"; };
  itself = {
    exportReferencesGraph = [ "graph" (make "self-reference" { script = "echo $out > $out"; }) ]; script = "cat graph > $out";
  };
  of_text = { exportReferencesGraph = [ "graph" text ]; script = "cat graph > $out"; };
  inside_a_path = { exportReferencesGraph = [ "graph" "${branch}/leaf" ]; script = "cat graph > $out"; };
  derivation = { exportReferencesGraph = [ "graph" leaf.drvPath ]; script = "cat graph > $out"; };
  odd_number = { exportReferencesGraph = [ "graph" ]; };
  bad_file_name = { exportReferencesGraph = [ "../graph" leaf ]; };
  no_store_path = { exportReferencesGraph = [ "graph" "/etc/passwd" ]; };
  structured_one = structured { exportReferencesGraph.graph = [ leaf ]; script = "sed 's/,\"valid\":true//g' /build/.attrs.json > ${out}"; };
  structured_closure = structured { exportReferencesGraph = { a = [ tree text ]; b = [ branch ]; }; script = "sed 's/,\"valid\":true//g' /build/.attrs.json > ${out}"; };
  structured_shell = structured { exportReferencesGraph.graph = [ leaf ]; script = "cat /build/.attrs.sh > ${out}"; };
}

# Facts 5.9: which references are found in an output.
kit: with kit; {
  in_contents = { inherit leaf; script = "echo before $leaf after > $out"; };
  in_link = { inherit leaf; script = "ln -s $leaf/none $out"; };
  in_file_name = { inherit leaf; script = "mkdir $out; echo x > $out/$(basename $leaf)"; };
  hash_alone = { inherit leaf; script = "basename $leaf | cut -c1-32 > $out"; };
  cut_hash = { inherit leaf; script = "basename $leaf | cut -c1-31 > $out"; };
  upper_case = { inherit leaf; script = "basename $leaf | tr a-z A-Z > $out"; };
  compressed = { inherit leaf; script = "echo $leaf | gzip -n > $out"; };
  spaced = { inherit leaf; script = "basename $leaf | cut -c1-32 | sed 's/./& /g' > $out"; };
  across_64k = { inherit leaf; script = "dd if=/dev/zero bs=65520 count=1 2>/dev/null > $out; echo $leaf >> $out"; };
  across_1m = { inherit leaf; script = "dd if=/dev/zero bs=1048560 count=1 2>/dev/null > $out; echo $leaf >> $out"; };
  many_offsets = { inherit leaf; script = "i=0; while [ $i -lt 64 ]; do printf %0$((i+1))d 0; echo $leaf; i=$((i+1)); done > $out"; };
  itself.script = "echo $out > $out";
  itself_by_name.script = "mkdir $out; echo x > $out/$(basename $out)";
  indirect = { inherit branch; script = "cat $branch/leaf > $out"; };
  unused = { inherit leaf branch tree; };
  all_of_them = { inherit leaf branch tree; script = "echo $leaf $branch $tree > $out"; };
  not_an_input = { script = "echo /nix/store/00000000000000000000000000000000-x > $out"; };
  of_the_builder.script = "echo ${busybox} > $out";
  of_text = { inherit text; script = "cp $text $out; chmod 644 $out; echo $text >> $out"; };
  of_a_derivation = { drv = leaf.drvPath; script = "echo $drv > $out; head -c 6 $drv >> $out"; };
  in_executable = { inherit leaf; script = "echo \"#! $leaf\" > $out; chmod +x $out"; };
  overlapping = { inherit leaf; script = "h=$(basename $leaf | cut -c1-32); echo $h$h$h > $out; echo a$h >> $out"; };
}

# Facts 5.8: what becomes of an output's files.
kit: with kit; {
  modes.script = "mkdir $out; cd $out; for m in 644 755 600 700 400 111 444 666 654 777; do echo $m > f$m; chmod $m f$m; done";
  set_ids.script = "mkdir $out; cd $out; echo x > f; chmod u+s f 2>/dev/null || echo refused > g";
  sticky.script = "mkdir $out $out/d; chmod 1777 $out/d";
  folder_modes.script = "mkdir -p $out/a/b; echo x > $out/a/b/f; chmod 700 $out/a/b; chmod 750 $out/a";
  times.script = "echo x > $out; touch -d '2001-01-01 00:00:00' $out";
  hard_links.script = "mkdir $out; echo same > $out/a; ln $out/a $out/b";
  sparse.script = "truncate -s 100000 $out; echo end >> $out";
  empty_file.script = ": > $out";
  empty_folder.script = "mkdir $out";
  link.script = "ln -s somewhere $out";
  link_to_itself.script = "ln -s $out $out";
  dangling.script = "mkdir $out; ln -s /nowhere $out/a; ln -s ../.. $out/b; ln -s a $out/c";
  odd_names.script = "mkdir $out; cd $out; for n in 'a b' '\"' \"'\" '*' 'ü' -x .hidden '\\' 'new\nline' '~'; do echo x > \"./$n\"; done";
  long_name.script = "mkdir $out; echo x > $out/$(printf %0255d 0)";
  many_files.script = "mkdir $out; i=0; while [ $i -lt 500 ]; do echo $i > $out/f$i; i=$((i+1)); done";
  deep.script = "mkdir $out; cd $out; i=0; while [ $i -lt 60 ]; do mkdir d; cd d; i=$((i+1)); done; echo end > f";
  sorted.script = "mkdir $out; cd $out; for n in b A a B 10 9 _ . ..a a.b a-b ab; do echo $n > \"x$n\"; done";
  large_file.script = "dd if=/dev/zero of=$out bs=1M count=5 2>/dev/null; echo end >> $out";
  fifo.script = "mkdir $out; mkfifo $out/f";
  top_world_writable.script = "mkdir $out; chmod 777 $out";
  top_group_writable.script = "echo x > $out; chmod 664 $out";
  below_world_writable.script = "mkdir $out; echo x > $out/f; chmod 666 $out/f";
  unreadable_top.script = "echo x > $out; chmod 000 $out";
}

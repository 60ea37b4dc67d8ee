# Each ends without an output, in its own way.
kit: with kit; {
  code_1.script = "exit 1";
  code_2.script = "echo why >&2; exit 2";
  code_127.script = "no-such-command";
  code_255.script = "exit 255";
  signal_term.script = "${busybox}/bin/busybox sh -c 'kill -TERM $$' ; exit $?";
  no_output.script = "true";
  output_removed.script = "echo x > $out; rm $out";
  missing_builder = { builder = "/no/such/builder"; };
  builder_not_executable = { builder = "${text}"; };
  builder_is_a_folder = { builder = "${busybox}/bin"; };
  no_chroot = { __noChroot = true; };
  impure_host_paths = { __impureHostDeps = [ "/usr/lib" ]; };
  after_output.script = "echo x > $out; exit 4";
  of_an_input = { input = make "failing-input" { script = "exit 9"; }; };
  feature = { requiredSystemFeatures = [ "no-such-feature" ]; };
  platform = { system = "riscv64-linux"; };
}

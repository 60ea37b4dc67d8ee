# Facts 5.4: what an output may refer to and how large it may be.
kit: with kit;
let
  refer = attributes: { inherit leaf branch; script = "echo $leaf > $out"; } // attributes;
  through = attributes: { inherit branch; script = "echo $branch > $out"; } // attributes;
  both = attributes: { outputs = [ "out" "dev" ]; script = "echo $dev > $out; echo x > $dev"; } // attributes;
  self = attributes: { script = "echo $out > $out"; } // attributes;
  checked = checks: script: structured { inherit leaf branch; outputChecks.out = checks; inherit script; };
in {
  allowed_references = refer { allowedReferences = [ leaf ]; };
  allowed_references_missing = refer { allowedReferences = [ branch ]; };
  allowed_references_none = refer { allowedReferences = [ ]; };
  allowed_references_nothing_used = { allowedReferences = [ ]; };
  allowed_references_self = self { allowedReferences = [ "out" ]; };
  allowed_references_self_missing = self { allowedReferences = [ ]; };
  allowed_references_output = both { allowedReferences = [ "dev" ]; };
  allowed_references_output_missing = both { allowedReferences = [ "out" ]; };
  disallowed_references = refer { disallowedReferences = [ leaf ]; };
  disallowed_references_other = refer { disallowedReferences = [ branch ]; };
  disallowed_references_output = both { disallowedReferences = [ "dev" ]; };
  allowed_requisites = through { allowedRequisites = [ branch leaf ]; inherit leaf; };
  allowed_requisites_missing = through { allowedRequisites = [ branch ]; };
  allowed_requisites_self = self { allowedRequisites = [ ]; };
  disallowed_requisites = through { disallowedRequisites = [ leaf ]; inherit leaf; };
  disallowed_requisites_other = through { disallowedRequisites = [ text ]; };
  bad_specifier = refer { allowedReferences = [ "nonsense" ]; };
  all_together = refer { allowedReferences = [ leaf ]; allowedRequisites = [ leaf ]; disallowedReferences = [ branch ]; disallowedRequisites = [ branch ]; };
  structured_references = checked { allowedReferences = [ leaf ]; } "echo ${leaf} > ${out}";
  structured_references_missing = checked { allowedReferences = [ branch ]; } "echo ${leaf} > ${out}";
  structured_requisites = checked { allowedRequisites = [ branch leaf "out" ]; } "echo ${branch} > ${out}";
  structured_requisites_without_self = checked { allowedRequisites = [ branch leaf ]; } "echo ${branch} > ${out}";
  structured_disallowed = checked { disallowedRequisites = [ leaf ]; } "echo ${branch} > ${out}";
  structured_top_level_ignored = structured { allowedReferences = [ ]; script = "echo ${leaf} > ${out}"; };
  structured_other_output = structured { outputChecks.dev.allowedReferences = [ ]; script = "echo ${leaf} > ${out}"; };
  max_size = checked { maxSize = 1000; } "echo small > ${out}";
  max_size_exceeded = checked { maxSize = 100; } "echo small > ${out}";
  max_closure_size = checked { maxClosureSize = 100000; } "echo ${branch} > ${out}";
  max_closure_size_exceeded = checked { maxClosureSize = 500; } "echo ${branch} > ${out}";
  discarded_references = structured { unsafeDiscardReferences.out = true; script = "echo ${leaf} > ${out}"; };
  kept_references = structured { unsafeDiscardReferences.out = false; script = "echo ${leaf} > ${out}"; };
}

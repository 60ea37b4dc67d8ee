#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::model {

namespace {

/// Those of input-addressed and fixed derivations.
std::map<std::string, StorePath> expected_paths(const StoreDir& dir,
                                                const StorePath& path,
                                                const Derivation& derivation,
                                                const InputModulo& inputs) {
  const auto name = derivation_name(path);
  if (derivation_kind(derivation) == OutputKind::InputAddressed) {
    return input_addressed_paths(dir, name, derivation, inputs);
  }
  std::map<std::string, StorePath> expected;
  for (const auto& [output, made] : derivation.outputs) {
    expected.emplace(output,
                     make_content_addressed_path(
                         dir, output_path_name(name, output), made.fixed_address(), {}, false));
  }
  return expected;
}

void expect_output(const StoreDir& dir,
                   const StorePath& path,
                   const DerivationOutput& output,
                   const StorePath& expected) {
  if (output.path != expected) {
    throw Error(Reaction::Reject,
                "derivation.paths",
                fmt::format("derivation '{}' has incorrect output path '{}', should be '{}'",
                            dir.print(path),
                            dir.print(output.path.value()),
                            dir.print(expected)));
  }
}

/// Absent is right, too: then it has its part in the hash.
void expect_variable(const StoreDir& dir,
                     const StorePath& path,
                     const Derivation& derivation,
                     const std::string& name,
                     const StorePath& expected) {
  const auto variable = derivation.environment.find(name);
  if (variable != derivation.environment.end() && variable->second != dir.print(expected)) {
    throw Error(
        Reaction::Reject,
        "derivation.paths",
        fmt::format("derivation '{}' has incorrect environment variable '{}', should be '{}'",
                    dir.print(path),
                    name,
                    dir.print(expected)));
  }
}

bool has_placeholders(const Derivation& derivation) {
  return std::all_of(derivation.outputs.begin(), derivation.outputs.end(), [&](const auto& output) {
    const auto variable = derivation.environment.find(output.first);
    return variable == derivation.environment.end() ||
           variable->second == output_placeholder(output.first);
  });
}

} // namespace

bool outputs_follow(const StoreDir& dir,
                    const StorePath& path,
                    const Derivation& derivation,
                    const InputModulo& inputs) {
  switch (derivation_kind(derivation)) {
  case OutputKind::Floating:
    return has_placeholders(derivation);
  case OutputKind::Deferred: // filled in when it is resolved, variables as well
  case OutputKind::Impure:   // nothing is found by its hash
    return true;
  case OutputKind::InputAddressed:
  case OutputKind::Fixed:
    break;
  }
  const auto expected = expected_paths(dir, path, derivation, inputs);
  for (const auto& [name, output] : derivation.outputs) {
    expect_output(dir, path, output, expected.at(name));
    expect_variable(dir, path, derivation, name, expected.at(name));
  }
  return true;
}

} // namespace nixbuild::model

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/protocol/derived_path.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::protocol {

namespace {

constexpr std::size_t kShownBytes = 300;

[[noreturn]] void reject(std::string_view text, std::string_view reason) {
  throw Error(Reaction::Reject,
              "derived-path.form",
              fmt::format("'{}' {}", text.substr(0, kShownBytes), reason));
}

std::vector<std::string> parse_outputs(std::string_view text, std::string_view names) {
  std::vector<std::string> out;
  for (;;) {
    const auto comma = names.find(',');
    const auto name = names.substr(0, comma);
    if (!model::valid_output_name(name)) {
      reject(text, "names an output that cannot be");
    }
    if (std::find(out.begin(), out.end(), name) != out.end()) {
      reject(text, "names an output twice");
    }
    out.emplace_back(name);
    if (comma == std::string_view::npos) {
      return out;
    }
    names.remove_prefix(comma + 1);
  }
}

/// `out!out,dev`: all but the last are single names.
std::vector<std::string>
parse_steps(std::string_view text, std::string_view names, DerivedPathForm form) {
  std::vector<std::string> steps;
  for (auto mark = names.find('!'); mark != std::string_view::npos; mark = names.find('!')) {
    const auto step = names.substr(0, mark);
    if (!model::valid_output_name(step)) {
      reject(text, "names an output that cannot be");
    }
    steps.emplace_back(step);
    names.remove_prefix(mark + 1);
  }
  if (form != DerivedPathForm::Marked || names != "*") {
    static_cast<void>(parse_outputs(text, names));
  }
  steps.emplace_back(names);
  return steps;
}

} // namespace

DerivedPath
parse_derived_path(const model::StoreDir& dir, std::string_view text, DerivedPathForm form) {
  const auto mark = text.find('!');
  DerivedPath out{dir.parse(text.substr(0, mark)), DerivedPath::Wants::Path, {}};
  if (mark == std::string_view::npos) {
    if (form == DerivedPathForm::Bare && out.path.is_derivation()) {
      out.wants = DerivedPath::Wants::AllOutputs;
    }
    return out;
  }
  const auto names = text.substr(mark + 1);
  if (!out.path.is_derivation()) {
    reject(text, "wants outputs of what is no derivation");
  }
  if (names.find('!') != std::string_view::npos) {
    out.wants = DerivedPath::Wants::Nested;
    out.outputs = parse_steps(text, names, form);
    return out;
  }
  if (form == DerivedPathForm::Marked && names == "*") {
    out.wants = DerivedPath::Wants::AllOutputs;
    return out;
  }
  out.wants = DerivedPath::Wants::Outputs;
  out.outputs = parse_outputs(text, names);
  return out;
}

std::string print(const model::StoreDir& dir, const DerivedPath& path, DerivedPathForm form) {
  std::string out = dir.print(path.path);
  switch (path.wants) {
  case DerivedPath::Wants::Path:
    if (form == DerivedPathForm::Bare && path.path.is_derivation()) {
      reject(out, "itself cannot be asked for before worker version 1.30");
    }
    break;
  case DerivedPath::Wants::AllOutputs:
    out += form == DerivedPathForm::Marked ? "!*" : "";
    break;
  case DerivedPath::Wants::Nested:
    for (const auto& step : path.outputs) {
      out += '!' + step;
    }
    break;
  case DerivedPath::Wants::Outputs:
    for (std::size_t i = 0; i < path.outputs.size(); ++i) {
      out += i == 0 ? '!' : ',';
      out += path.outputs[i];
    }
    break;
  }
  return out;
}

} // namespace nixbuild::protocol

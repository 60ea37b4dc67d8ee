#include "derivation_options.hpp"

#include "steps.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace nixbuild::build {

namespace {

using Json = nlohmann::json;

[[noreturn]] void reject_input(std::string message) {
  throw BuildFailure(model::BuildStatus::InputRejected, std::move(message));
}

/// Attributes as they stand in the environment: lists are words, switches are `1`.
class PlainAttributes {
public:
  explicit PlainAttributes(const model::BasicDerivation& derivation)
      : environment_(derivation.environment) {}

  [[nodiscard]] std::optional<Words> words(const std::string& name) const {
    const auto found = environment_.find(name);
    return found == environment_.end() ? std::nullopt : std::optional(words_of(found->second));
  }

  [[nodiscard]] bool on(const std::string& name) const {
    const auto found = environment_.find(name);
    return found != environment_.end() && found->second == "1";
  }

private:
  const std::map<std::string, std::string>& environment_;
};

/// Attributes with types of their own.
class StructuredAttributes {
public:
  StructuredAttributes(const Json& object, std::string_view derivation)
      : object_(object), derivation_(derivation) {}

  [[nodiscard]] std::optional<Words> words(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      return std::nullopt;
    }
    if (!found->is_array()) {
      fail(name, "a list of strings");
    }
    Words words;
    for (const auto& element : *found) {
      if (!element.is_string()) {
        fail(name, "a list of strings");
      }
      words.push_back(element.get<std::string>());
    }
    return words;
  }

  [[nodiscard]] bool on(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      return false;
    }
    if (!found->is_boolean()) {
      fail(name, "a Boolean");
    }
    return found->get<bool>();
  }

  [[nodiscard]] std::optional<std::uint64_t> size(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      return std::nullopt;
    }
    if (!found->is_number_integer() || *found < 0) {
      fail(name, "a number of bytes");
    }
    return found->get<std::uint64_t>();
  }

  /// The member of that name as an object; none where it is missing or something else.
  [[nodiscard]] const Json* object(const std::string& name) const {
    const auto found = object_.find(name);
    return found == object_.end() || !found->is_object() ? nullptr : &*found;
  }

  [[noreturn]] void fail(std::string_view attribute, std::string_view wanted) const {
    reject_input(fmt::format("attribute '{}' of '{}' must be {}", attribute, derivation_, wanted));
  }

private:
  const Json& object_;
  std::string_view derivation_;
};

template <class Attributes>
void read_references(const Attributes& attributes, OutputRules& rules) {
  rules.allowed_references = attributes.words("allowedReferences");
  rules.allowed_requisites = attributes.words("allowedRequisites");
  rules.disallowed_references = attributes.words("disallowedReferences");
  rules.disallowed_requisites = attributes.words("disallowedRequisites");
}

template <class Attributes>
void read_common(const Attributes& attributes, DerivationOptions& options) {
  options.no_chroot = attributes.on("__noChroot");
  options.impure_host_dependencies = attributes.words("__impureHostDeps").value_or(Words());
  options.impure_variables = attributes.words("impureEnvVars").value_or(Words());
  for (auto& feature : attributes.words("requiredSystemFeatures").value_or(Words())) {
    options.required_features.insert(std::move(feature));
  }
}

bool names_a_file(std::string_view text) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  const auto further = [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '-';
  };
  return !text.empty() && letter(text.front()) &&
         std::all_of(text.begin() + 1, text.end(), further);
}

void read_plain_graphs(const PlainAttributes& attributes, DerivationOptions& options) {
  const auto words = attributes.words("exportReferencesGraph").value_or(Words());
  if (words.size() % 2 != 0) {
    reject_input(
        fmt::format("odd number of tokens in 'exportReferencesGraph': '{}'", words.back()));
  }
  for (std::size_t i = 0; i < words.size(); i += 2) {
    if (!names_a_file(words[i])) {
      reject_input(fmt::format("invalid file name '{}' in 'exportReferencesGraph'", words[i]));
    }
    options.references_graphs[words[i]] = {words[i + 1]};
  }
}

void read_plain(const model::BasicDerivation& derivation, DerivationOptions& options) {
  const PlainAttributes attributes(derivation);
  read_common(attributes, options);
  for (auto& name : attributes.words("passAsFile").value_or(Words())) {
    options.pass_as_file.insert(std::move(name));
  }
  read_plain_graphs(attributes, options);
  OutputRules rules;
  read_references(attributes, rules);
  rules.ignore_self = true;
  for (const auto& [output, unused] : derivation.outputs) {
    options.rules[output] = rules;
  }
}

/// Paths in a text, a list, or lists in lists.
void gather_paths(const Json& value, const StructuredAttributes& attributes, Words& paths) {
  if (value.is_string()) {
    paths.push_back(value.get<std::string>());
    return;
  }
  if (!value.is_array()) {
    attributes.fail("exportReferencesGraph", "an object of store paths and lists of them");
  }
  for (const auto& element : value) {
    gather_paths(element, attributes, paths);
  }
}

void read_structured(const Json& json, std::string_view name, DerivationOptions& options) {
  const StructuredAttributes attributes(json, name);
  read_common(attributes, options);
  if (const auto* graphs = attributes.object("exportReferencesGraph")) {
    for (const auto& [key, value] : graphs->items()) {
      gather_paths(value, attributes, options.references_graphs[key]);
    }
  }
  if (const auto* checks = attributes.object("outputChecks")) {
    for (const auto& [output, value] : checks->items()) {
      if (!value.is_object()) {
        attributes.fail("outputChecks", "an object of objects");
      }
      const StructuredAttributes of_output(value, name);
      OutputRules rules;
      read_references(of_output, rules);
      rules.max_size = of_output.size("maxSize");
      rules.max_closure_size = of_output.size("maxClosureSize");
      options.rules[output] = std::move(rules);
    }
  }
  if (const auto* discarded = attributes.object("unsafeDiscardReferences")) {
    for (const auto& [output, value] : discarded->items()) {
      if (!value.is_boolean()) {
        attributes.fail("unsafeDiscardReferences", "an object of Booleans");
      }
      if (value.get<bool>()) {
        options.undiscovered.insert(output);
      }
    }
  }
}

} // namespace

Words words_of(std::string_view text) {
  constexpr std::string_view blanks = " \t\n\r";
  Words words;
  std::size_t begin = text.find_first_not_of(blanks);
  while (begin != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(blanks, begin), text.size());
    words.emplace_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(blanks, end);
  }
  return words;
}

Json parse_attributes(std::string_view text, std::string_view name, const JsonLimits& limits) {
  if (text.size() > limits.text_bytes) {
    reject_input(fmt::format("the structured attributes of '{}' have {} bytes; the limit is {}",
                             name,
                             text.size(),
                             limits.text_bytes));
  }
  std::size_t values = 0;
  const auto count = [&](int depth, Json::parse_event_t, Json&) {
    if (++values > limits.values || depth > limits.depth) {
      reject_input(fmt::format("the structured attributes of '{}' have more than {} values or "
                               "{} levels",
                               name,
                               limits.values,
                               limits.depth));
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, count);
  } catch (const Json::exception& error) {
    reject_input(fmt::format("cannot process __json attribute of '{}': {}", name, error.what()));
  }
  if (!json.is_object()) {
    reject_input(fmt::format("the structured attributes of '{}' are no object", name));
  }
  return json;
}

DerivationOptions read_options(const model::BasicDerivation& derivation, std::string_view name) {
  DerivationOptions options;
  const auto json = derivation.environment.find("__json");
  if (json == derivation.environment.end()) {
    read_plain(derivation, options);
  } else {
    options.structured = true;
    read_structured(parse_attributes(json->second, name), name, options);
  }
  return options;
}

} // namespace nixbuild::build

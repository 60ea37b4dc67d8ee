#include "environment.hpp"

#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace nixbuild::build {

namespace {

using Json = nlohmann::json;

/// What Nix's conversion to a C int gives on x86: integers lose their upper half, and what a
/// fractional number cannot be is the smallest one. Source: protocol facts 5.6.
std::int32_t as_int(const Json& number) {
  if (number.is_number_float()) {
    const double value = std::trunc(number.get<double>());
    constexpr double bound = 2147483648.0;
    return value >= -bound && value < bound ? static_cast<std::int32_t>(value)
                                            : std::numeric_limits<std::int32_t>::min();
  }
  const auto bits = number.is_number_unsigned()
                        ? number.get<std::uint64_t>()
                        : static_cast<std::uint64_t>(number.get<std::int64_t>());
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(bits));
}

std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

/// A value that the shell can hold; nothing for others.
std::optional<std::string> shell_value(const Json& value) {
  if (value.is_string()) {
    return shell_quoted(value.get_ref<const std::string&>());
  }
  if (value.is_number()) {
    // Whole to the eyes of a single-precision number.
    const auto single = value.get<float>();
    return std::ceil(single) == single ? std::optional(std::to_string(as_int(value)))
                                       : std::nullopt;
  }
  if (value.is_null()) {
    return "''";
  }
  if (value.is_boolean()) {
    return value.get<bool>() ? "1" : "";
  }
  return std::nullopt;
}

/// `(v1 v2 )` or `(['k']=v )`; nothing when a member has no shell value.
std::optional<std::string> shell_members(const Json& value) {
  std::string out = "(";
  for (const auto& [key, member] : value.items()) {
    const auto shown = shell_value(member);
    if (!shown) {
      return std::nullopt;
    }
    out += value.is_object() ? fmt::format("[{}]={} ", shell_quoted(key), *shown) : *shown + " ";
  }
  return out + ")";
}

bool names_a_variable(std::string_view text) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  const auto further = [&](char c) {
    return letter(c) || (c >= '0' && c <= '9');
  };
  return !text.empty() && letter(text.front()) && std::all_of(text.begin(), text.end(), further);
}

std::string shell_text(const Json& attributes) {
  std::string out;
  for (const auto& [key, value] : attributes.items()) {
    if (!names_a_variable(key)) {
      continue;
    }
    if (const auto simple = shell_value(value)) {
      out += fmt::format("declare {}={}\n", key, *simple);
    } else if (value.is_structured()) {
      if (const auto members = shell_members(value)) {
        out += fmt::format("declare {} {}={}\n", value.is_array() ? "-a" : "-A", key, *members);
      }
    }
  }
  return out;
}

Json as_json(const model::StoreDir& dir, const GraphPath& path) {
  Json object = {{"path", dir.print(path.info.path)},
                 {"narHash", model::hash_nix32(path.info.nar_hash)},
                 {"narSize", path.info.nar_size},
                 {"closureSize", path.closure_size},
                 {"valid", true}};
  auto& references = object["references"] = Json::array();
  for (const auto& reference : path.info.references) {
    references.push_back(dir.print(reference));
  }
  if (!path.info.content_address.empty()) {
    object["ca"] = path.info.content_address;
  }
  return object;
}

} // namespace

void add_structured_files(sandbox::GuestJob& job,
                          const model::StoreDir& dir,
                          std::string_view attributes,
                          const std::map<std::string, std::vector<GraphPath>>& graphs,
                          const Rewrites& rewrites) {
  auto json = parse_attributes(attributes, "the derivation");
  auto& outputs = json["outputs"] = Json::object();
  for (const auto& output : job.outputs) {
    outputs[output.name] = fmt::format("{}/{}", dir.text(), output.store_name);
  }
  for (const auto& [key, paths] : graphs) {
    auto& list = json[key] = Json::array();
    for (const auto& path : paths) {
      list.push_back(as_json(dir, path));
    }
  }
  // Text that is not UTF-8 was refused when it was read.
  job.files.push_back({".attrs.sh", rewritten(shell_text(json), rewrites)});
  job.files.push_back({".attrs.json", rewritten(json.dump(), rewrites)});
}

} // namespace nixbuild::build

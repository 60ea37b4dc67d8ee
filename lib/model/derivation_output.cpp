#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::model {

namespace {

[[noreturn]] void reject_output(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

/// The digest as the derivation writes it: hexadecimal only.
Hash fixed_hash(const MethodAlgorithm& method, std::string_view hash) {
  if (hash.size() != digest_size(method.algorithm) * 2) {
    reject_output("derivation.output",
                  fmt::format("output hash '{}' is not {} hexadecimal digits",
                              hash.substr(0, 200),
                              digest_size(method.algorithm) * 2));
  }
  return Hash(method.algorithm, hex_decode(hash));
}

std::string placeholder(std::string_view text) {
  return "/" + nix32_encode(hash_of(HashAlgorithm::Sha256, bytes_of(text)).bytes());
}

} // namespace

OutputKind DerivationOutput::kind() const {
  if (method_algorithm.empty()) {
    if (!hash.empty()) {
      reject_output("derivation.output", "an output has a hash without an algorithm");
    }
    return path ? OutputKind::InputAddressed : OutputKind::Deferred;
  }
  const auto method = parse_method_algorithm(method_algorithm);
  if (path) {
    static_cast<void>(fixed_hash(method, hash));
    return OutputKind::Fixed;
  }
  if (hash.empty()) {
    return OutputKind::Floating;
  }
  if (hash == "impure") {
    return OutputKind::Impure;
  }
  reject_output("derivation.output", "an output has a hash and no path");
}

ContentAddress DerivationOutput::fixed_address() const {
  if (kind() != OutputKind::Fixed) {
    reject_output("derivation.output", "an output without hash and path has no content address");
  }
  const auto method = parse_method_algorithm(method_algorithm);
  return {method.method, fixed_hash(method, hash)};
}

OutputKind derivation_kind(const BasicDerivation& derivation) {
  if (derivation.outputs.empty()) {
    reject_output("derivation.outputs", "a derivation without outputs");
  }
  const auto& [first_name, first] = *derivation.outputs.begin();
  const OutputKind kind = first.kind();
  for (const auto& [name, output] : derivation.outputs) {
    if (output.kind() != kind) {
      reject_output("derivation.outputs",
                    fmt::format("outputs '{}' and '{}' are of different kinds", first_name, name));
    }
    const bool hashed = kind == OutputKind::Floating || kind == OutputKind::Impure;
    if (hashed && parse_method_algorithm(output.method_algorithm).algorithm !=
                      parse_method_algorithm(first.method_algorithm).algorithm) {
      reject_output(
          "derivation.outputs",
          fmt::format("outputs '{}' and '{}' have different algorithms", first_name, name));
    }
  }
  if (kind == OutputKind::Fixed && (derivation.outputs.size() != 1 || first_name != "out")) {
    reject_output("derivation.outputs", "a fixed-output derivation has exactly one output, 'out'");
  }
  return kind;
}

bool valid_output_name(std::string_view output) noexcept {
  return !output.empty() && output.size() <= StorePath::kNameLimit &&
         std::all_of(output.begin(), output.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  std::string_view("+-._?=").find(c) != std::string_view::npos;
         });
}

std::string_view derivation_name(const StorePath& derivation) {
  if (!derivation.is_derivation()) {
    reject_output("derivation.path", fmt::format("'{}' is no derivation", derivation.base_name()));
  }
  std::string_view name = derivation.name();
  name.remove_suffix(std::string_view(".drv").size());
  return name;
}

std::string output_path_name(std::string_view derivation_name, std::string_view output) {
  std::string out(derivation_name);
  if (output != "out") {
    out += '-';
    out += output;
  }
  return out;
}

StorePath scratch_path(const StoreDir& dir, const StorePath& derivation, std::string_view output) {
  const std::string type = fmt::format("rewrite:{}:name:{}", derivation.base_name(), output);
  return make_store_path(dir, type, Hash(), output_path_name(derivation_name(derivation), output));
}

std::string output_placeholder(std::string_view output) {
  return placeholder(fmt::format("nix-output:{}", output));
}

std::string input_placeholder(const StorePath& derivation, std::string_view output) {
  return placeholder(fmt::format("nix-upstream-output:{}:{}",
                                 derivation.hash_part(),
                                 output_path_name(derivation_name(derivation), output)));
}

} // namespace nixbuild::model

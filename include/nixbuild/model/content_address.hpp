#pragma once

#include <nixbuild/base/digest.hpp>
#include <nixbuild/model/store_path.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nixbuild::model {

enum class ContentAddressMethod : std::uint8_t { Text, Flat, NixArchive, Git };

/// `text:sha256:…`, `fixed:sha256:…`, `fixed:r:sha256:…`, `fixed:git:sha1:…`.
/// Source: protocol facts 4.7.
struct ContentAddress {
  ContentAddressMethod method = ContentAddressMethod::Flat;
  Hash hash;

  auto operator<=>(const ContentAddress&) const = default;
};

/// How contents that refer to themselves are hashed: each occurrence of the own hash part counts as
/// 32 zero bytes, and its offset is appended or is not. Nix up to 2.16 and from 2.35 on appends
/// them, those between do not. Source: protocol facts 4.8, T2.
enum class SelfReferences : std::uint8_t { Plain, WithOffsets };

/// Errors: `content-address.form`, `hash.*`, `encoding.*`.
[[nodiscard]] NIXBUILD_API ContentAddress parse_content_address(std::string_view text);
[[nodiscard]] NIXBUILD_API std::string print(const ContentAddress& address);

/// The method and algorithm of a derivation output: `sha256`, `r:sha1`, `text:sha256`, `git:sha1`.
struct MethodAlgorithm {
  ContentAddressMethod method = ContentAddressMethod::Flat;
  HashAlgorithm algorithm = HashAlgorithm::Sha256;

  auto operator<=>(const MethodAlgorithm&) const = default;
};

[[nodiscard]] NIXBUILD_API MethodAlgorithm parse_method_algorithm(std::string_view text);
[[nodiscard]] NIXBUILD_API std::string print(const MethodAlgorithm& method);

/// The path that content with this address has. `references` are the other paths it refers to,
/// sorted and unique; `self_reference` only with Text excluded. Errors:
/// `content-address.references` where the method allows none, `content-address.form` for a Git name
/// by another algorithm than Git's. Source: protocol facts 4.3.
[[nodiscard]] NIXBUILD_API StorePath make_content_addressed_path(const StoreDir& dir,
                                                                 std::string_view name,
                                                                 const ContentAddress& address,
                                                                 const StorePaths& references,
                                                                 bool self_reference);

} // namespace nixbuild::model

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

namespace nixbuild::model {

namespace {

[[noreturn]] void reject(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

/// What stands before the algorithm in `[r:|git:|text:]algo`.
std::string_view prefix_of(ContentAddressMethod method) {
  switch (method) {
  case ContentAddressMethod::Text:
    return "text:";
  case ContentAddressMethod::Flat:
    return "";
  case ContentAddressMethod::NixArchive:
    return "r:";
  case ContentAddressMethod::Git:
    return "git:";
  }
  return "";
}

/// Takes the prefix off `text`.
ContentAddressMethod take_method(std::string_view& text) {
  for (const auto method :
       {ContentAddressMethod::Text, ContentAddressMethod::NixArchive, ContentAddressMethod::Git}) {
    const auto prefix = prefix_of(method);
    if (text.starts_with(prefix)) {
      text.remove_prefix(prefix.size());
      return method;
    }
  }
  return ContentAddressMethod::Flat;
}

} // namespace

ContentAddress parse_content_address(std::string_view text) {
  std::string_view rest = text;
  ContentAddress address;
  if (rest.starts_with("text:sha256:")) {
    rest.remove_prefix(5);
    address.method = ContentAddressMethod::Text;
  } else if (rest.starts_with("fixed:")) {
    rest.remove_prefix(6);
    address.method = take_method(rest);
    if (address.method == ContentAddressMethod::Text) {
      reject("content-address.form", "a content address is 'text:' or 'fixed:', not both");
    }
  } else {
    reject("content-address.form",
           fmt::format("'{}' begins neither with 'text:sha256:' nor with 'fixed:'",
                       text.substr(0, 200)));
  }
  if (rest.find(':') == std::string_view::npos) {
    reject("content-address.form",
           fmt::format("content address '{}' has no algorithm", text.substr(0, 200)));
  }
  address.hash = parse_hash(rest);
  return address;
}

std::string print(const ContentAddress& address) {
  const std::string_view form =
      address.method == ContentAddressMethod::Text ? std::string_view() : "fixed:";
  return fmt::format("{}{}{}", form, prefix_of(address.method), hash_nix32(address.hash));
}

MethodAlgorithm parse_method_algorithm(std::string_view text) {
  std::string_view rest = text;
  MethodAlgorithm out;
  out.method = take_method(rest);
  const auto algorithm = hash_algorithm_of(rest);
  if (!algorithm) {
    reject("hash.algorithm",
           fmt::format("'{}' is no method and hash algorithm", text.substr(0, 200)));
  }
  if (out.method == ContentAddressMethod::Text && *algorithm != HashAlgorithm::Sha256) {
    reject("hash.algorithm", fmt::format("text objects are hashed with sha256, not {}", rest));
  }
  out.algorithm = *algorithm;
  return out;
}

std::string print(const MethodAlgorithm& method) {
  return fmt::format("{}{}", prefix_of(method.method), name_of(method.algorithm));
}

StorePath make_content_addressed_path(const StoreDir& dir,
                                      std::string_view name,
                                      const ContentAddress& address,
                                      const StorePaths& references,
                                      bool self_reference) {
  if (address.method == ContentAddressMethod::Text) {
    if (self_reference) {
      reject("content-address.references", fmt::format("text object '{}' refers to itself", name));
    }
    return make_text_path(dir, name, address.hash, references);
  }
  if (address.method == ContentAddressMethod::NixArchive &&
      address.hash.algorithm() == HashAlgorithm::Sha256) {
    std::string type = "source";
    for (const auto& reference : references) {
      type += ':';
      type += dir.print(reference);
    }
    if (self_reference) {
      type += ":self";
    }
    return make_store_path(dir, type, address.hash, name);
  }
  const auto algorithm = address.hash.algorithm();
  if (address.method == ContentAddressMethod::Git && algorithm != HashAlgorithm::Sha1 &&
      algorithm != HashAlgorithm::Sha256) {
    reject("content-address.form",
           fmt::format("git names contents by sha1 or sha256, not by {}", name_of(algorithm)));
  }
  if (self_reference || !references.empty()) {
    reject("content-address.references",
           fmt::format("'{}' has references, which {} does not allow",
                       name,
                       print(MethodAlgorithm{address.method, address.hash.algorithm()})));
  }
  const std::string text = fmt::format("fixed:out:{}{}:{}:",
                                       prefix_of(address.method),
                                       name_of(address.hash.algorithm()),
                                       hash_hex(address.hash));
  return make_store_path(dir, "output:out", hash_of(HashAlgorithm::Sha256, bytes_of(text)), name);
}

} // namespace nixbuild::model

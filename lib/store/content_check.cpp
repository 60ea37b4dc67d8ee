#include "content_check.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::store {

namespace {

using Method = model::ContentAddressMethod;

bool among(const model::StorePaths& paths, const model::StorePath& path) {
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

} // namespace

ContentCheck::ContentCheck(const model::StoreDir& dir,
                           const ImportRequest& request,
                           nar::EventSink& next)
    : dir_(dir), request_(request), next_(next) {
  if (request.content_address.empty()) {
    if (request.path.is_derivation()) {
      flat_.emplace(HashAlgorithm::Sha256);
    }
    return;
  }
  try {
    address_ = model::parse_content_address(request.content_address);
  } catch (const Error& error) {
    fail(error.message());
  }
  switch (address_->method) {
  case Method::Text:
  case Method::Flat:
    flat_.emplace(address_->hash.algorithm());
    break;
  case Method::NixArchive: {
    const bool may_refer_to_itself =
        among(request.references, request.path) || among(request.scan_for, request.path);
    if (address_->hash.algorithm() != HashAlgorithm::Sha256 || may_refer_to_itself) {
      masked_ =
          std::make_unique<MaskedDigest>(address_->hash.algorithm(), request.path.hash_part());
    }
    break;
  }
  case Method::Git:
    git_.emplace(address_->hash.algorithm());
    break;
  }
}

void ContentCheck::fail(std::string_view why) const {
  throw Error(Reaction::Reject,
              "store.content-address",
              fmt::format("path '{}' is not what content address '{}' says: {}",
                          request_.path.base_name(),
                          request_.content_address.substr(0, 200),
                          why));
}

bool ContentCheck::contents_match(const model::PathInfo& info) {
  if (git_) {
    return git_->finish() == address_->hash;
  }
  if (flat_) {
    if (!root_is_file_) {
      fail("it is not a regular file");
    }
    return flat_->finish() == address_->hash;
  }
  if (!masked_) {
    return info.nar_hash == address_->hash;
  }
  const auto digests = masked_->finish();
  return digests.plain == address_->hash || digests.with_offsets == address_->hash;
}

void ContentCheck::check_address(const model::PathInfo& info) {
  if (!contents_match(info)) {
    fail("the contents have another hash");
  }
  auto others = info.references;
  const bool self = std::erase(others, info.path) > 0;
  std::optional<model::StorePath> expected;
  try {
    expected = model::make_content_addressed_path(dir_, info.path.name(), *address_, others, self);
  } catch (const Error& error) {
    fail(error.message());
  }
  if (*expected != info.path) {
    fail(fmt::format("its path would be '{}'", expected->base_name()));
  }
}

void ContentCheck::recover_text_address(model::PathInfo& info) {
  if (!root_is_file_ || root_is_executable_ || among(info.references, info.path)) {
    return;
  }
  const auto hash = flat_->finish();
  if (model::make_text_path(dir_, info.path.name(), hash, info.references) == info.path) {
    info.content_address = model::print(model::ContentAddress{Method::Text, hash});
  }
}

void ContentCheck::finish(model::PathInfo& info) {
  if (address_) {
    check_address(info);
    info.content_address = request_.content_address;
  } else if (flat_) {
    recover_text_address(info);
  }
}

void ContentCheck::regular(bool executable, std::uint64_t size) {
  if (depth_ == 0) {
    root_is_file_ = true;
    root_is_executable_ = executable;
  }
  if (git_) {
    git_->regular(executable, size);
  }
  next_.regular(executable, size);
}

void ContentCheck::contents(ByteView bytes) {
  if (depth_ == 0 && flat_) {
    flat_->update(bytes);
  }
  if (git_) {
    git_->contents(bytes);
  }
  next_.contents(bytes);
}

void ContentCheck::regular_end() {
  if (git_) {
    git_->regular_end();
  }
  next_.regular_end();
}

void ContentCheck::symlink(std::string_view target) {
  if (git_) {
    git_->symlink(target);
  }
  next_.symlink(target);
}

void ContentCheck::directory() {
  ++depth_;
  if (git_) {
    git_->directory();
  }
  next_.directory();
}

void ContentCheck::entry(std::string_view name) {
  if (git_) {
    git_->entry(name);
  }
  next_.entry(name);
}

void ContentCheck::directory_end() {
  --depth_;
  if (git_) {
    git_->directory_end();
  }
  next_.directory_end();
}

} // namespace nixbuild::store

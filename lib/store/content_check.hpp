#pragma once

#include "masked_digest.hpp"

#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/nar/event.hpp>
#include <nixbuild/nar/git_digest.hpp>
#include <nixbuild/store/store.hpp>

#include <memory>
#include <optional>

namespace nixbuild::store {

/// Verifies a content address while the NAR streams by, with a second digest only where the NAR
/// hash does not answer the question. Stands between the parser and `next`.
class ContentCheck final : public nar::EventSink {
public:
  /// `request` and `next` outlive the check. Error `store.content-address` for text that is no
  /// content address.
  ContentCheck(const model::StoreDir& dir, const ImportRequest& request, nar::EventSink& next);

  /// All bytes of the NAR, in any cut, beside the events.
  void nar_bytes(ByteView bytes) {
    if (masked_) {
      masked_->update(bytes);
    }
  }

  /// Compares, with `info` complete but for its content address. A `.drv` that came without one and
  /// is what its path says gets it. Error `store.content-address`.
  void finish(model::PathInfo& info);

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

private:
  void check_address(const model::PathInfo& info);
  [[nodiscard]] bool contents_match(const model::PathInfo& info);
  void recover_text_address(model::PathInfo& info);
  [[noreturn]] void fail(std::string_view why) const;

  const model::StoreDir& dir_;
  const ImportRequest& request_;
  nar::EventSink& next_;
  std::optional<model::ContentAddress> address_;
  std::optional<Hasher> flat_;           ///< of the root file's contents
  std::optional<nar::GitDigest> git_;    ///< of the tree
  std::unique_ptr<MaskedDigest> masked_; ///< of the NAR without self references
  unsigned depth_ = 0;
  bool root_is_file_ = false;
  bool root_is_executable_ = false;
};

} // namespace nixbuild::store

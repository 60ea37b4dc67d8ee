#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/nar/event.hpp>

#include <memory>

namespace nixbuild::nar {

/// Turns events back into a NAR. Checks the same rules as Reader (same codes), so that what it
/// writes can always be read. Small pieces are gathered before they reach the sink; contents go
/// through without a copy. Not thread safe.
class NIXBUILD_API Writer final : public EventSink {
public:
  /// `out` outlives the writer.
  explicit Writer(ByteSink& out, const Limits& limits = {});
  ~Writer() override;

  void regular(bool executable, std::uint64_t size) override;
  void contents(ByteView bytes) override;
  void regular_end() override;
  void symlink(std::string_view target) override;
  void directory() override;
  void entry(std::string_view name) override;
  void directory_end() override;

  /// Hands everything gathered to the sink. Call once after the root node. Error `nar.truncated`
  /// when the tree is not complete.
  void finish();

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::nar

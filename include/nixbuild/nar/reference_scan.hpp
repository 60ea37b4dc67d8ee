#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/base/bytes.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::nar {

/// Searches a byte stream for 32-character store-path hash parts, at any offset and across chunk
/// borders. Runs at several GB/s; memory is proportional to the number of candidates. Not thread
/// safe. Source: protocol facts 5.9.
class NIXBUILD_API ReferenceScanner {
public:
  /// Error `reference-scan.candidate` for a text that is not 32 base-32 characters.
  explicit ReferenceScanner(std::span<const std::string> hash_parts);
  ~ReferenceScanner();
  ReferenceScanner(ReferenceScanner&&) noexcept;
  ReferenceScanner& operator=(ReferenceScanner&&) noexcept;

  void feed(ByteView bytes);
  /// Indices into the constructor's list, ascending, of the candidates seen so far.
  [[nodiscard]] std::vector<std::size_t> found() const;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::nar

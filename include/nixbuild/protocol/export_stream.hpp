#pragma once

#include <nixbuild/model/path_info.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <memory>
#include <optional>
#include <string>
#include <variant>

/// The stream of `nix-store --export`, ImportPaths and ExportPaths. Source: protocol facts 2.7.
namespace nixbuild::protocol {

/// What follows a NAR in the stream.
struct ExportTrailer {
  model::StorePath path;
  model::StorePaths references;
  std::optional<model::StorePath> deriver;
  bool operator==(const ExportTrailer&) const = default;
};

/// Push reader. The NAR between marker and trailer is the caller's to parse: this reader says when
/// one begins, hands its bytes out raw, and is told how many of them it was.
class NIXBUILD_API ExportStreamReader {
public:
  struct NarBegins {};

  struct End {};

  using Item = std::variant<NarBegins, ExportTrailer, End>;

  explicit ExportStreamReader(model::StoreDir dir, Limits limits = {});
  ~ExportStreamReader();
  ExportStreamReader(ExportStreamReader&&) noexcept;
  ExportStreamReader& operator=(ExportStreamReader&&) noexcept;

  void feed(ByteView bytes);
  /// Nothing while bytes are missing. After NarBegins: take raw bytes, then `nar_finished`.
  /// Errors (Reject): `export.marker`, `export.magic`, and those of the wire.
  [[nodiscard]] std::optional<Item> next();
  [[nodiscard]] ByteView raw() const noexcept;
  void consume_raw(std::size_t count);
  void nar_finished();

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes before a NAR, after it, and after the last path. Each appends to `out`.
NIXBUILD_API void write_export_nar_marker(std::string& out);
NIXBUILD_API void
write_export_trailer(std::string& out, const model::StoreDir& dir, const ExportTrailer& trailer);
NIXBUILD_API void write_export_end(std::string& out);

} // namespace nixbuild::protocol

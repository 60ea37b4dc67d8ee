#pragma once

#include <nixbuild/model/build.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

/// The serve protocol (`nix-store --serve`, `ssh://`), versions 2.1 to 2.8, both sides, as tables.
/// No I/O: bytes in, messages out. Source: protocol facts 2.
namespace nixbuild::protocol::serve {

inline constexpr std::uint64_t kClientMagic = 0x390c9deb;
inline constexpr std::uint64_t kServerMagic = 0x5452eecb;
inline constexpr Version kOldestVersion{2, 1};
inline constexpr Version kNewestVersion{2, 8};
/// What our server announces; clients that know less speak what they know.
inline constexpr Version kServerVersion{2, 8};

struct QueryValidPaths {
  bool lock = false;
  bool substitute = false;
  model::StorePaths paths;
  bool operator==(const QueryValidPaths&) const = default;
};

struct QueryPathInfos {
  model::StorePaths paths;
  bool operator==(const QueryPathInfos&) const = default;
};

struct DumpStorePath {
  model::StorePath path;
  bool operator==(const DumpStorePath&) const = default;
};

/// An export stream follows (ExportStreamReader).
struct ImportPaths {
  bool operator==(const ImportPaths&) const = default;
};

struct ExportPaths {
  model::StorePaths paths;
  bool operator==(const ExportPaths&) const = default;
};

struct BuildPaths {
  std::vector<std::string> targets; ///< `path` or `drv!out,dev`
  model::BuildOptions options;
  bool operator==(const BuildPaths&) const = default;
};

struct QueryClosure {
  bool include_outputs = false;
  model::StorePaths paths;
  bool operator==(const QueryClosure&) const = default;
};

struct BuildDerivation {
  model::StorePath path;
  model::BasicDerivation derivation;
  model::BuildOptions options;
  bool operator==(const BuildDerivation&) const = default;
};

/// `info.nar_size` raw NAR bytes follow.
struct AddToStoreNar {
  model::PathInfo info;
  bool operator==(const AddToStoreNar&) const = default;
};

using Request = std::variant<QueryValidPaths,
                             QueryPathInfos,
                             DumpStorePath,
                             ImportPaths,
                             ExportPaths,
                             BuildPaths,
                             QueryClosure,
                             BuildDerivation,
                             AddToStoreNar>;

/// The protocol's own name of a request (`QueryValidPaths`).
[[nodiscard]] NIXBUILD_API std::string_view name_of(const Request& request) noexcept;
/// Its command number.
[[nodiscard]] NIXBUILD_API std::uint64_t command_of(const Request& request) noexcept;
/// The server refuses it without `--write`.
[[nodiscard]] NIXBUILD_API bool needs_write(const Request& request) noexcept;
[[nodiscard]] NIXBUILD_API Permission permission_of(const Request& request) noexcept;

/// PathInfo as serve sends it: registration time and `ultimate` do not cross.
struct PathInfoReply {
  model::PathInfo info;
  std::uint64_t download_size = 0;
  bool operator==(const PathInfoReply&) const = default;
};

/// Server side of one connection: gathers bytes, gives requests. Decoding costs time linear in the
/// bytes however they are cut; memory grows with bytes received, never with sizes announced.
/// Errors (Reject): `serve.magic`, `serve.version`, `serve.command`, `wire.padding`,
/// `wire.integer`, `wire.limit`, `wire.string`, `hash.*`, `store-path.*`, `derivation.*`, each
/// naming the field. After an error the reader is dead: it throws the same error again. Lists of
/// paths keep the client's order and duplicates; references and input sources are sorted and
/// unique.
class NIXBUILD_API RequestReader {
public:
  /// `server` is the version that our hello announces.
  explicit RequestReader(model::StoreDir dir, Limits limits = {}, Version server = kServerVersion);
  ~RequestReader();
  RequestReader(RequestReader&&) noexcept;
  RequestReader& operator=(RequestReader&&) noexcept;

  /// Adds bytes that have arrived.
  void feed(ByteView bytes);
  /// True once the client's magic has arrived: time to send the server's greeting.
  [[nodiscard]] bool magic_received();
  /// min(client, server) once the whole hello has arrived; `next` needs it.
  [[nodiscard]] std::optional<Version> version();
  /// The next request, or nothing while bytes are missing. Not to be called while the raw bytes of
  /// the last request (AddToStoreNar, ImportPaths) are still to be taken.
  [[nodiscard]] std::optional<Request> next();
  /// Raw bytes at hand that follow the last request.
  [[nodiscard]] ByteView raw() const noexcept;
  void consume_raw(std::size_t count);
  /// Nothing is buffered: an end of file here is a proper end of the session.
  [[nodiscard]] bool at_boundary() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes of what a server sends. Each appends to `out`.
NIXBUILD_API void write_hello(std::string& out, Version version = kServerVersion);
NIXBUILD_API void
write_paths(std::string& out, const model::StoreDir& dir, std::span<const model::StorePath> paths);
/// One entry of a QueryPathInfos reply; after the last one `write_end_of_infos`.
NIXBUILD_API void write_path_info(std::string& out,
                                  const model::StoreDir& dir,
                                  Version version,
                                  const PathInfoReply& info);
NIXBUILD_API void write_end_of_infos(std::string& out);
NIXBUILD_API void write_number(std::string& out, std::uint64_t number);
/// Reply to BuildPaths: 0, or a failure status with its message. Source: protocol facts 2.8.
NIXBUILD_API void
write_build_paths_reply(std::string& out, model::BuildStatus status, std::string_view message);
/// Reply to BuildDerivation. `realisation_hashes` from model::realisation_hashes: used below 2.8
/// for the keys of the outputs; an output that is not in it gets the zero hash.
NIXBUILD_API void write_build_result(std::string& out,
                                     const model::StoreDir& dir,
                                     Version version,
                                     const model::BuildResult& result,
                                     const std::map<std::string, Hash>& realisation_hashes);

/// Client side: bytes of requests (raw NAR bytes are the caller's to send after it). Error
/// `serve.command` when the version does not have the request.
NIXBUILD_API void write_client_hello(std::string& out, Version version = kNewestVersion);
NIXBUILD_API void write_request(std::string& out,
                                const model::StoreDir& dir,
                                Version version,
                                const Request& request);

/// Client side: gathers the server's bytes and reads the reply that the caller expects next. Every
/// `read_…` gives nothing while bytes are missing. Same guarantees and errors as RequestReader, and
/// `wire.status`, `wire.realisation`.
class NIXBUILD_API ReplyReader {
public:
  explicit ReplyReader(model::StoreDir dir, Limits limits = {});
  ~ReplyReader();
  ReplyReader(ReplyReader&&) noexcept;
  ReplyReader& operator=(ReplyReader&&) noexcept;

  void feed(ByteView bytes);
  /// The server's hello; the version used from then on is the smaller of it and `client`.
  [[nodiscard]] std::optional<Version> read_hello(Version client = kNewestVersion);
  [[nodiscard]] std::optional<model::StorePaths> read_paths();
  /// One entry of a QueryPathInfos reply; an inner nothing is the end of the list.
  [[nodiscard]] std::optional<std::optional<PathInfoReply>> read_path_info();
  [[nodiscard]] std::optional<std::uint64_t> read_number();
  /// 0, or status and message.
  [[nodiscard]] std::optional<std::pair<std::uint64_t, std::string>> read_build_paths_reply();
  /// `keys` (where given) receives output name → hash of the 2.6/2.7 keys.
  [[nodiscard]] std::optional<model::BuildResult>
  read_build_result(std::map<std::string, Hash>* keys = nullptr);
  [[nodiscard]] ByteView raw() const noexcept;
  void consume_raw(std::size_t count);
  [[nodiscard]] bool at_boundary() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::protocol::serve

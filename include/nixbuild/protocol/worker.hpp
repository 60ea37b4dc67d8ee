#pragma once

#include <nixbuild/protocol/framed.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>
#include <nixbuild/protocol/wire.hpp>
#include <nixbuild/protocol/worker_log.hpp>
#include <nixbuild/protocol/worker_messages.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

/// The worker protocol (`nix-daemon --stdio`, `ssh-ng://`), versions 1.18 to 1.38 with features,
/// both sides, as tables. No I/O: bytes in, messages out. Source: protocol facts 3.
///
/// One operation: request, then the bytes that `payload_of` tells; the server answers with any
/// number of LogMessages of which the last is Last or Failure; after Last comes the reply. While
/// the payload is under way the server may already speak; after a Failure it still has to take the
/// payload to its end.
namespace nixbuild::protocol::worker {

inline constexpr std::uint64_t kClientMagic = 0x6e697863;
inline constexpr std::uint64_t kServerMagic = 0x6478696f;
inline constexpr Version kOldestVersion{1, 18};
inline constexpr Version kNewestVersion{1, 38};
inline constexpr Version kServerVersion{1, 38};

using Features = std::set<std::string>;

/// Outputs are named by derivation path and output name instead of by hash.
inline constexpr std::string_view kRealisationWithPath = "realisation-with-path-not-hash";
/// CollectGarbage says whether it means the whole store, and whether referrers go, too.
inline constexpr std::string_view kDeleteDeadSpecific = "delete-dead-specific-referrers";
/// Both of them: what this library knows. Other names in a peer's list are harmless.
[[nodiscard]] NIXBUILD_API const Features& known_features();

/// What the two sides agreed on: the smaller version, and the features that both have.
struct Peer {
  Version version = kNewestVersion;
  Features features;
  bool operator==(const Peer&) const = default;
};

/// What a server says of its client. Below 1.35 it does not cross.
enum class Trust : std::uint8_t { Unknown = 0, Trusted = 1, NotTrusted = 2 };

/// What follows a request before the server can finish it.
enum class Payload : std::uint8_t {
  None,
  Framed, ///< FramedReader: AddToStore from 1.25, AddToStoreNar from 1.23, AddMultipleToStore,
          ///< AddBuildLog
  Nar,    ///< a raw NAR whose end its parser finds: AddToStore below 1.25, AddToStoreNar below 1.21
  Pulled, ///< strings that the server asks for with DataWanted: AddToStoreNar 1.21 and 1.22
};

/// The protocol's own name of a request (`QueryValidPaths`).
[[nodiscard]] NIXBUILD_API std::string_view name_of(const Request& request) noexcept;
[[nodiscard]] NIXBUILD_API std::uint64_t operation_of(const Request& request) noexcept;
/// The table's, but for BuildPaths and BuildPathsWithResults of nothing but paths themselves, which
/// is what `nix copy --from` asks first, and CollectGarbage that only tells: StoreRead.
[[nodiscard]] NIXBUILD_API Permission permission_of(const Request& request) noexcept;
[[nodiscard]] NIXBUILD_API Payload payload_of(const Request& request, const Peer& peer) noexcept;

/// Something that the server has to write during the greeting.
enum class GreetingStep : std::uint8_t {
  Hello,       ///< `write_hello`: after the client's first 8 bytes; older clients wait for it (T21)
  FeatureList, ///< `write_features`: after the client's version and features; only from 1.38
  Welcome, ///< `write_welcome`, then messages if any, then `Last`: after all that the client sends
};

/// Server side of one connection: gathers bytes, gives requests. Decoding costs time linear in the
/// bytes however they are cut; memory grows with bytes received, never with sizes announced.
///
/// Errors (Reject): `worker.magic`, `worker.version`, `worker.operation`, `worker.mode`,
/// `worker.action`, `worker.method`, `worker.pulled`, `derived-path.form`, `wire.padding`,
/// `wire.integer`, `wire.limit`, `wire.string`, `wire.realisation`, `hash.*`, `store-path.*`,
/// `derivation.*`, each naming the field. After an error the stream's position is lost: the reader
/// throws the same error again whatever is asked. Once greeted, the server says it in the
/// protocol's own way (`write_log` of a Failure with the error's message; of `worker.operation`
/// that is the `invalid operation N` of other servers) and ends the session. Operations that Nix
/// has removed and ones that it has not told us of are `worker.operation`.
///
/// Lists of paths that ask keep the client's order and duplicates; references, input sources and
/// the paths of CollectGarbage are sorted and unique.
class NIXBUILD_API RequestReader {
public:
  /// `server` and `features` are what our hello announces.
  explicit RequestReader(model::StoreDir dir,
                         Limits limits = {},
                         Version server = kServerVersion,
                         Features features = known_features());
  ~RequestReader();
  RequestReader(RequestReader&&) noexcept;
  RequestReader& operator=(RequestReader&&) noexcept;

  /// Adds bytes that have arrived.
  void feed(ByteView bytes);

  /// What the server must write now; each step is given once, in the order of the enumeration.
  /// Nothing while bytes are missing and once the greeting is over: call it until then, after each
  /// `feed`.
  [[nodiscard]] std::optional<GreetingStep> greeting();
  /// What was agreed on; there once the step Welcome has been given.
  [[nodiscard]] const std::optional<Peer>& peer() const noexcept;
  /// The next request, or nothing while bytes are missing or the step Welcome has not been given.
  /// Not to be called while the payload of the last request is still to be taken.
  [[nodiscard]] std::optional<Request> next();
  /// The client's answer to DataWanted{most}; an empty one is the end of what it has. Error
  /// `worker.pulled` when it is longer than was asked for.
  [[nodiscard]] std::optional<std::string> next_pulled(std::uint64_t most);
  /// Raw bytes at hand that follow the last request.
  [[nodiscard]] ByteView raw() const noexcept;
  void consume_raw(std::size_t count);
  /// Nothing is buffered: an end of file here, outside a payload, is a proper end of the session.
  [[nodiscard]] bool at_boundary() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes of what a server sends. Each appends to `out`.
NIXBUILD_API void write_hello(std::string& out, Version version = kServerVersion);
NIXBUILD_API void write_features(std::string& out, const Features& features = known_features());
/// Daemon version (from 1.33) and trust (from 1.35), below nothing.
NIXBUILD_API void
write_welcome(std::string& out, const Peer& peer, std::string_view daemon_version, Trust trust);
/// One message of the stderr channel. Activities and their results are left out for peers below
/// 1.20.
NIXBUILD_API void write_log(std::string& out, const Peer& peer, const LogMessage& message);
/// What follows Last. Error (Reject) `worker.realisation` for more than one realisation where the
/// peer can take one, `derived-path.form` for a target that the peer's version cannot say.
NIXBUILD_API void
write_reply(std::string& out, const model::StoreDir& dir, const Peer& peer, const Reply& reply);

/// Client side: bytes that it sends. First of all:
NIXBUILD_API void write_client_hello(std::string& out, Version version = kNewestVersion);
/// Once the server's version is there: features (from 1.38) and the obsolete words. `agreed` is the
/// smaller version.
NIXBUILD_API void write_client_greeting(std::string& out,
                                        Version agreed,
                                        const Features& features = known_features());
/// A request without its payload. Errors (Reject): `worker.operation` when the version does not
/// have it, `worker.method`, `worker.realisation`, `derived-path.form` when the version cannot say
/// it.
NIXBUILD_API void write_request(std::string& out,
                                const model::StoreDir& dir,
                                const Peer& peer,
                                const Request& request);
/// One answer to DataWanted; empty: there is no more.
NIXBUILD_API void write_pulled(std::string& out, ByteView bytes);

/// The server's part of the greeting.
struct Welcome {
  Peer peer;
  std::string daemon_version; ///< below 1.33 empty
  Trust trust = Trust::Unknown;
  bool operator==(const Welcome&) const = default;
};

/// Client side: gathers the server's bytes. Every `read_…` gives nothing while bytes are missing.
/// Same guarantees and errors as RequestReader, and `worker.message`, `worker.trust`,
/// `wire.status`.
class NIXBUILD_API ReplyReader {
public:
  /// `client` and `features` are what our own hello announces.
  explicit ReplyReader(model::StoreDir dir,
                       Limits limits = {},
                       Version client = kNewestVersion,
                       Features features = known_features());
  ~ReplyReader();
  ReplyReader(ReplyReader&&) noexcept;
  ReplyReader& operator=(ReplyReader&&) noexcept;

  void feed(ByteView bytes);
  /// The smaller version, once the server's hello is there: time for `write_client_greeting`.
  [[nodiscard]] std::optional<Version> read_hello();
  /// After it; then `read_log` until Last.
  [[nodiscard]] std::optional<Welcome> read_welcome();
  /// The next message of the stderr channel.
  [[nodiscard]] std::optional<LogMessage> read_log();
  /// The reply to `request`, after Last. In what QueryPathInfo and AddToStore give, `info.path` is
  /// set.
  [[nodiscard]] std::optional<Reply> read_reply(const Request& request);
  /// The NAR of NarFromPath.
  [[nodiscard]] ByteView raw() const noexcept;
  void consume_raw(std::size_t count);
  [[nodiscard]] bool at_boundary() const noexcept;

private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace nixbuild::protocol::worker

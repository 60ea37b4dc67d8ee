#pragma once

#include <nixbuild/build/builder.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/nar/reader.hpp>

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::build {

/// A build that ends with a status the client is told, and nothing registered.
class BuildFailure {
public:
  BuildFailure(model::BuildStatus status, std::string message)
      : status_(status), message_(std::move(message)) {}

  [[nodiscard]] model::BuildStatus status() const noexcept { return status_; }

  [[nodiscard]] const std::string& message() const noexcept { return message_; }

private:
  model::BuildStatus status_;
  std::string message_;
};

/// The derivation as Nix would write it, without input derivations.
[[nodiscard]] std::string derivation_text(const model::StoreDir& dir,
                                          const model::BasicDerivation& derivation);

/// What an open build's record holds of the request, so that a later daemon can carry it out.
[[nodiscard]] std::string
request_text(const model::StoreDir& dir, const BuildRequest& request, const BuildPolicy& policy);
/// Errors: `build.request`, those of parse_derivation.
[[nodiscard]] BuildRequest
parse_request(const model::StoreDir& dir, store::AccountId account, std::string_view text);

/// What makes two builds the same whoever asks: derivation (with outputs and platform), and what
/// its inputs contain. A path's name says nothing about its contents, so the NAR hash of every path
/// of the input closure is a part; the account, too, where the builder is told of more
/// than its inputs. Nothing when a path of `closure` is not valid. Blocking.
[[nodiscard]] std::optional<Hash> build_key(store::MetadataDb& db,
                                            const model::StoreDir& dir,
                                            const BuildRequest& request,
                                            const model::StorePaths& closure);
/// Leases outputs and inputs, looks the inputs up and computes the key. Blocking.
[[nodiscard]] std::shared_ptr<BuildInputs> resolve(store::Store& store,
                                                   const BuildRequest& request);
/// What makes two requests share one running build: the account and the limits asked for are a
/// part, so that nobody's time limit ends another one's build.
[[nodiscard]] Hash share_key(const Hash& key, const BuildRequest& request);

/// The composed input disk of a closure.
struct InputDisk {
  std::vector<sandbox::DiskExtent> extents;
  std::uint64_t bytes = 0;
};

/// Opens the segments of `closure` and composes them. `scratch_dir` takes the head file. Blocking.
[[nodiscard]] InputDisk
compose_inputs(store::Store& store, store::AccountId account, const model::StorePaths& closure);

/// Error `sandbox.output` when bytes follow the end of the archive.
void feed_whole(store::Import& import, ByteView bytes);

/// Throws BuildFailure (OutputRejected) with both hashes, in Nix's words.
void check_fixed_output(const Hash& expected, const Hash& got, std::string_view derivation);

/// What is known of earlier builds: of each output of the derivation, where it is; absent unless
/// all are valid. `lease` gets their paths. Blocking.
[[nodiscard]] std::optional<std::map<std::string, model::Realisation>>
known_outputs(store::Store& store, const BuildRequest& request, store::Lease& lease);

/// Whether the paths of such outputs are known only when they are made.
[[nodiscard]] bool made_of_contents(model::OutputKind kind) noexcept;
/// Whether builds of such outputs may use the network.
[[nodiscard]] bool has_network(model::OutputKind kind) noexcept;

/// The outputs in an order in which each stands behind those it refers to. Throws BuildFailure
/// (OutputRejected) for a cycle between them. Source: protocol facts 5.8 (5).
[[nodiscard]] std::vector<std::size_t> order_of_outputs(const std::vector<model::PathInfo>& infos,
                                                        std::string_view derivation);

} // namespace nixbuild::build

#pragma once

#include <nixbuild/aio/task.hpp>
#include <nixbuild/base/bytes.hpp>
#include <nixbuild/model/path_info.hpp>
#include <nixbuild/server/serve_session.hpp>

#include <cstddef>
#include <string>

namespace nixbuild::server {

/// Bytes of a request that follow its message: an archive of an announced size, or a framed stream.
class ByteSource {
public:
  virtual ~ByteSource() = default;
  /// Fills `buffer`; fewer bytes only at the end of the stream. Throws when the client leaves.
  virtual aio::Task<std::size_t> take(MutableBytes buffer) = 0;
};

/// Takes the archive of a path as announced and registers it. A path that is valid already has its
/// bytes taken all the same, and only counted. Small archives are handled in one visit to the
/// blocking pool; of large ones, one buffer is filled from the client while another is digested
/// and stored. Errors: those of Store::begin_import, Import and Store::commit, and
/// `store.nar-size` when the stream ends too early.
aio::Task<void> receive_path(const SessionParts& parts,
                             store::AccountId account,
                             model::PathInfo announced,
                             ByteSource& source);

/// What an import is told of a path that a client announces.
[[nodiscard]] store::ImportRequest import_request(const model::PathInfo& announced);

/// Bytes gathered before they are handed on: few hand-overs, and the cache still holds them.
inline constexpr std::size_t kTransferBuffer = 512 * kKiB;

/// Feeds all of `bytes`, which must belong to the archive of `path`. Error `store.nar-size`.
void feed_all(store::Import& import, ByteView bytes, const std::string& path);

/// True when the account has the path. Blocking.
[[nodiscard]] bool
is_valid(store::Store& store, store::AccountId account, const model::StorePath& path);

} // namespace nixbuild::server

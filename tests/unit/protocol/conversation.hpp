#pragma once

#include <nixbuild/protocol/serve.hpp>

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// Takes recorded serve conversations apart and puts them together again.
namespace nixbuild::test {

namespace serve = protocol::serve;

std::string read_file(const std::filesystem::path& path);

/// One recorded connection.
struct Recording {
  std::string name;
  std::string client; ///< what the client wrote
  std::string server; ///< what the server wrote
};

/// The data folder's recordings of a protocol (`ssh`, `ssh-ng`), sorted by name.
std::vector<Recording> recordings(std::string_view protocol = "ssh");

/// Version that a hello announces.
protocol::Version announced_version(std::string_view stream);

struct Asked {
  serve::Request request;
  std::string raw; ///< the NAR of AddToStoreNar

  bool operator==(const Asked&) const = default;
};

struct ClientSide {
  std::vector<Asked> requests;
  bool complete = false; ///< the stream ended between requests

  bool operator==(const ClientSide&) const = default;
};

/// Feeds `stream` in pieces of `cut` bytes.
ClientSide decode_client(std::string_view stream, protocol::Version server, std::size_t cut);
std::string encode_client(protocol::Version announced,
                          protocol::Version agreed,
                          const std::vector<Asked>& requests);

struct Infos {
  std::vector<serve::PathInfoReply> entries;

  bool operator==(const Infos&) const = default;
};

struct Result {
  model::BuildResult result;
  std::map<std::string, Hash> keys;

  bool operator==(const Result&) const = default;
};

struct Nar {
  std::string bytes;

  bool operator==(const Nar&) const = default;
};

using BuildPathsReply = std::pair<std::uint64_t, std::string>;
using Reply = std::variant<model::StorePaths, Infos, Nar, std::uint64_t, BuildPathsReply, Result>;

struct ServerSide {
  std::vector<Reply> replies;
  bool complete = false;

  bool operator==(const ServerSide&) const = default;
};

/// The requests decide what is expected.
ServerSide decode_server(std::string_view stream,
                         protocol::Version client,
                         const std::vector<Asked>& requests,
                         std::size_t cut);
std::string encode_server(protocol::Version announced,
                          protocol::Version agreed,
                          const std::vector<Reply>& replies);

} // namespace nixbuild::test

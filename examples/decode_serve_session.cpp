// Says what a Nix client asked for in a recorded session of the serve protocol (ssh://), from the
// bytes that it wrote. No I/O in the library: bytes in, messages out.
//
//     decode_serve_session SESSION.c2s SESSION.s2c

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/store_path.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <fstream>
#include <iostream>
#include <iterator>

using namespace nixbuild;
namespace serve = protocol::serve;

namespace {

std::string contents_of(const char* file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void describe(const serve::Request& request, const model::StoreDir& dir) {
  std::cout << serve::name_of(request);
  if (const auto* query = std::get_if<serve::QueryValidPaths>(&request)) {
    std::cout << ' ' << query->paths.size() << " paths";
  } else if (const auto* build = std::get_if<serve::BuildDerivation>(&request)) {
    std::cout << ' ' << dir.print(build->path) << " for " << build->derivation.platform;
  } else if (const auto* add = std::get_if<serve::AddToStoreNar>(&request)) {
    std::cout << ' ' << dir.print(add->info.path) << ", " << add->info.nar_size << " bytes";
  }
  std::cout << '\n';
}

/// The archive that follows AddToStoreNar, straight out of the reader's buffer.
void skip_archive(serve::RequestReader& client) {
  nar::Listing listing;
  nar::Reader archive(listing);
  client.consume_raw(archive.feed(client.raw()));
  archive.expect_finished();
  std::cout << "  an archive with " << listing.entries().size() << " entries\n";
}

} // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: decode_serve_session SESSION.c2s SESSION.s2c\n";
    return 2;
  }
  const model::StoreDir dir("/nix/store");
  // Both sides go by the smaller of the versions that they announce.
  serve::ReplyReader server(dir);
  server.feed(bytes_of(contents_of(argv[2])));
  serve::RequestReader client(dir, {}, server.read_hello().value());
  client.feed(bytes_of(contents_of(argv[1])));
  const auto version = client.version().value();
  std::cout << "serve protocol " << version.major_number() << '.' << version.minor_number() << '\n';
  while (const auto request = client.next()) {
    describe(*request, dir);
    if (std::holds_alternative<serve::AddToStoreNar>(*request)) {
      skip_archive(client);
    }
  }
  std::cout << (client.at_boundary() ? "complete\n" : "cut off in a request\n");
  return client.at_boundary() ? 0 : 1;

} catch (const Error& error) {

  std::cerr << error.what() << " [" << error.code() << "]\n";
  return exit_code_of(error.reaction());
}

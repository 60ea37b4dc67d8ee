#include "fixture.hpp"
#include "store/masked_digest.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::store;
using namespace nixbuild::store::testing;
using Method = model::ContentAddressMethod;

namespace {

std::string import_as(Ports& ports,
                      const model::StorePath& path,
                      std::string_view nar,
                      std::string address,
                      model::StorePaths references = {}) {
  auto request = request_for(path, nar, std::move(references));
  request.content_address = std::move(address);
  return code_of([&] {
    const auto info = add(*ports.store, ports.account, request, nar);
    if (info.content_address != request.content_address) {
      throw Error(Reaction::Internal, "test.address", info.content_address);
    }
  });
}

model::StorePath path_for(const model::ContentAddress& address, model::StorePaths references = {}) {
  return model::make_content_addressed_path(model::StoreDir(), "hello", address, references, false);
}

} // namespace

TEST_CASE("content addresses: known paths are accepted", "[store][golden]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_file("hello");
  // Source: protocol facts 8.
  const auto source = model::StorePath::parse("yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hello");
  CHECK(
      import_as(
          ports, source, nar, "fixed:r:sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa")
          .empty());
  const auto text = model::StorePath::parse("7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-src.txt");
  const auto hello = hash_of(HashAlgorithm::Sha256, bytes_of("hello"));
  CHECK(import_as(ports, text, nar, model::print({Method::Text, hello})).empty());
  const std::vector<std::pair<HashAlgorithm, const char*>> flat{
      {HashAlgorithm::Sha256, "3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello"},
      {HashAlgorithm::Md5, "cjjgh51g19my6qswi7m4371f5892dxs9-hello"},
      {HashAlgorithm::Sha1, "v0nrf1zmxrpzqx6hw27z2qp9glpisrpz-hello"},
      {HashAlgorithm::Sha512, "9dsyz1y7fz5x2b2p5qc3a34qbjd2v83x-hello"}};
  for (const auto& [algorithm, path] : flat) {
    const model::ContentAddress address{Method::Flat, hash_of(algorithm, bytes_of("hello"))};
    CHECK(import_as(ports, model::StorePath::parse(path), nar, model::print(address)).empty());
  }
  // Git's name for a file of these contents; the path as Nix 2.26.3 makes it of that.
  const model::ContentAddress git{
      Method::Git,
      Hash(HashAlgorithm::Sha1, hex_decode("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"))};
  CHECK(import_as(ports, path_for(git), nar, model::print(git)).empty());
  const model::ContentAddress recursive{Method::NixArchive,
                                        hash_of(HashAlgorithm::Sha1, bytes_of(nar))};
  CHECK(import_as(ports,
                  model::StorePath::parse("9yw8zg8zabkb6xrhdxm7shpq2cjcx9ky-hello"),
                  nar,
                  model::print(recursive))
            .empty());
}

TEST_CASE("content addresses: wrong contents, paths and forms are refused", "[store][reject]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const auto nar = nar_of_file("hello");
  const auto tree = nar_of_tree(2, "x");
  const auto other = hash_of(HashAlgorithm::Sha256, bytes_of("other"));
  const auto hello = hash_of(HashAlgorithm::Sha256, bytes_of("hello"));
  const auto refused = [&](const model::StorePath& path,
                           std::string_view archive,
                           const std::string& address,
                           model::StorePaths references = {}) {
    return import_as(ports, path, archive, address, std::move(references)) ==
           "store.content-address";
  };
  for (const auto method : {Method::Text, Method::Flat, Method::NixArchive}) {
    const model::ContentAddress address{method, other};
    CHECK(refused(path_for(address), nar, model::print(address)));
  }
  const model::ContentAddress flat{Method::Flat, hello};
  CHECK(refused(path_named("hello"), nar, model::print(flat)));
  CHECK(refused(path_for(flat), tree, model::print(flat)));
  const auto reference = add_path(ports, "reference").path;
  CHECK(refused(path_for(flat), nar, model::print(flat), {reference}));
  CHECK(refused(path_named("hello"), nar, "nonsense"));
  const auto git = "fixed:git:sha1:" + std::string(32, '0');
  CHECK(refused(path_for(model::parse_content_address(git)), nar, git));
  CHECK(refused(path_for(model::parse_content_address(git)), tree, git));
  CHECK(ports.segment_count() == 1);
}

TEST_CASE("content addresses: self references in both forms", "[store][golden]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  // Source: protocol facts 8, vector "cadrv": a directory with the file `self`.
  const auto path = model::StorePath::parse("gszi1nxgyf69xnd84jqyry5yjhqfmnfr-cadrv");
  const auto nar_for = [](const model::StorePath& own) {
    std::string out;
    StringSink sink(out);
    nar::Writer writer(sink);
    const auto contents = "/nix/store/" + own.base_name() + "\n";
    writer.directory();
    writer.entry("self");
    writer.regular(false, contents.size());
    writer.contents(bytes_of(contents));
    writer.regular_end();
    writer.directory_end();
    writer.finish();
    return out;
  };
  const auto nar = nar_for(path);
  const std::string address = "fixed:r:sha256:18nrsqhkazc4vfyn8gn0kw60psmf29197n1hf96afkpyqyha06bx";
  CHECK(nar.size() == 336);
  CHECK(import_as(ports, path, nar, address) == "store.content-address");
  CHECK(import_as(ports, path, nar, address, {path}).empty());
  // Without offsets: another address and path.
  MaskedDigest digest(HashAlgorithm::Sha256, path.hash_part());
  digest.update(bytes_of(nar));
  const model::ContentAddress plain{Method::NixArchive, digest.finish().plain};
  const auto other =
      model::make_content_addressed_path(model::StoreDir(), "cadrv", plain, {}, true);
  CHECK(import_as(ports, other, nar_for(other), model::print(plain), {other}).empty());
  CHECK(ports.store->verify(ports.account, {}).empty());
}

TEST_CASE("content addresses: a derivation that is what its path says gets its address",
          "[store]") {
  Ports ports(GENERATE(Kind::Memory, Kind::Files));
  const std::string text = R"(Derive([("out","","","")],[],[],"x86_64-linux","/bin/sh",[],[]))";
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of(text));
  const auto path = model::make_text_path(model::StoreDir(), "d.drv", hash, {});
  const auto nar = nar_of_file(text);
  CHECK(add(*ports.store, ports.account, request_for(path, nar), nar).content_address ==
        model::print({Method::Text, hash}));
  // An output may be called so; it has no address then.
  CHECK(add(*ports.store, ports.account, request_for(path_named("e.drv"), nar), nar)
            .content_address.empty());
  const auto tree = nar_of_tree(1, "");
  CHECK(add(*ports.store, ports.account, request_for(path_named("f.drv"), tree), tree)
            .content_address.empty());
}

TEST_CASE("masked digest: pieces give the same as the whole", "[store][property]") {
  const std::string own = "gszi1nxgyf69xnd84jqyry5yjhqfmnfr";
  const std::string text = "ab" + own + own + "gszi1" + own.substr(0, 31) + "x" + own + "g";
  std::string masked = text;
  std::string offsets;
  for (std::size_t at = 0; (at = masked.find(own, at)) != std::string::npos;) {
    masked.replace(at, own.size(), own.size(), '\0');
    offsets += "|" + std::to_string(at);
  }
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    MaskedDigest digest(HashAlgorithm::Sha256, own);
    for (std::size_t at = 0; at < text.size(); at += piece) {
      digest.update(bytes_of(std::string_view(text).substr(at, piece)));
    }
    const auto found = digest.finish();
    REQUIRE(found.plain == hash_of(HashAlgorithm::Sha256, bytes_of(masked)));
    REQUIRE(found.with_offsets == hash_of(HashAlgorithm::Sha256, bytes_of(masked + offsets)));
  }
}

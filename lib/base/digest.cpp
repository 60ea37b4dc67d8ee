#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

namespace nixbuild {

namespace {

const EVP_MD* method_of(HashAlgorithm algorithm) {
  switch (algorithm) {
  case HashAlgorithm::Md5:
    return EVP_md5();
  case HashAlgorithm::Sha1:
    return EVP_sha1();
  case HashAlgorithm::Sha256:
    return EVP_sha256();
  case HashAlgorithm::Sha512:
    break;
  }
  return EVP_sha512();
}

} // namespace

std::size_t digest_size(HashAlgorithm algorithm) noexcept {
  switch (algorithm) {
  case HashAlgorithm::Md5:
    return 16;
  case HashAlgorithm::Sha1:
    return 20;
  case HashAlgorithm::Sha256:
    return 32;
  case HashAlgorithm::Sha512:
    break;
  }
  return 64;
}

std::string_view name_of(HashAlgorithm algorithm) noexcept {
  switch (algorithm) {
  case HashAlgorithm::Md5:
    return "md5";
  case HashAlgorithm::Sha1:
    return "sha1";
  case HashAlgorithm::Sha256:
    return "sha256";
  case HashAlgorithm::Sha512:
    break;
  }
  return "sha512";
}

std::optional<HashAlgorithm> hash_algorithm_of(std::string_view name) noexcept {
  for (const auto algorithm :
       {HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512}) {
    if (name_of(algorithm) == name) {
      return algorithm;
    }
  }
  return std::nullopt;
}

Hash::Hash(HashAlgorithm algorithm, ByteView digest) : algorithm_(algorithm) {
  if (digest.size() != digest_size(algorithm)) {
    throw Error(Reaction::Reject,
                "hash.length",
                fmt::format("a {} digest has {} bytes, not {}",
                            name_of(algorithm),
                            digest_size(algorithm),
                            digest.size()));
  }
  std::copy(digest.begin(), digest.end(), bytes_.begin());
}

struct Hasher::State {
  HashAlgorithm algorithm;
  EVP_MD_CTX* context;

  explicit State(HashAlgorithm a) : algorithm(a), context(EVP_MD_CTX_new()) {
    if (context == nullptr || EVP_DigestInit_ex(context, method_of(a), nullptr) != 1) {
      EVP_MD_CTX_free(context);
      throw Error(Reaction::Internal, "hash.init", fmt::format("OpenSSL refuses {}", name_of(a)));
    }
  }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  ~State() { EVP_MD_CTX_free(context); }
};

Hasher::Hasher(HashAlgorithm algorithm) : state_(std::make_unique<State>(algorithm)) {}

Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(ByteView bytes) {
  if (EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) != 1) {
    throw Error(Reaction::Internal, "hash.update", "OpenSSL failed to digest");
  }
}

Hash Hasher::finish() {
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_DigestFinal_ex(state_->context, digest.data(), &size) != 1) {
    throw Error(Reaction::Internal, "hash.finish", "OpenSSL failed to end a digest");
  }
  return Hash(state_->algorithm, ByteView(digest).first(size));
}

Hash hash_of(HashAlgorithm algorithm, ByteView bytes) {
  Hasher hasher(algorithm);
  hasher.update(bytes);
  return hasher.finish();
}

} // namespace nixbuild

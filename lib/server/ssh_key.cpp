#include "settings_text.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/ssh_key.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <vector>

namespace nixbuild::server {

namespace {

constexpr std::size_t kEd25519Bytes = 32;
constexpr std::size_t kLeastRsaBits = 2048;
constexpr std::size_t kMostRsaBits = 16384;

struct Algorithm {
  std::string_view name;
  std::string_view curve;    ///< ECDSA
  std::size_t point_bytes;   ///< ECDSA: uncompressed
  bool security_key = false; ///< an application's name ends it
};

constexpr std::array<Algorithm, 7> kAlgorithms = {{
    {"ssh-ed25519", "", 0},
    {"sk-ssh-ed25519@openssh.com", "", 0, true},
    {"ecdsa-sha2-nistp256", "nistp256", 65},
    {"ecdsa-sha2-nistp384", "nistp384", 97},
    {"ecdsa-sha2-nistp521", "nistp521", 133},
    {"sk-ecdsa-sha2-nistp256@openssh.com", "nistp256", 65, true},
    {"ssh-rsa", "", 0},
}};

const Algorithm* find_algorithm(std::string_view name) {
  const auto* found = std::find_if(kAlgorithms.begin(),
                                   kAlgorithms.end(),
                                   [&](const Algorithm& known) { return known.name == name; });
  return found == kAlgorithms.end() ? nullptr : found;
}

/// Known to OpenSSH, and refused here.
bool is_other_algorithm(std::string_view name) {
  return name == "ssh-dss" || name.find("-cert-v01@") != std::string_view::npos;
}

[[noreturn]] void malformed(std::string what) {
  throw Error(Reaction::Reject,
              "key.malformed",
              fmt::format("this is no public SSH key ({}); one looks like 'ssh-ed25519 AAAA… "
                          "you@host' and is in ~/.ssh/id_ed25519.pub",
                          what));
}

[[noreturn]] void unsupported(std::string what) {
  throw Error(Reaction::Unsupported,
              "key.unsupported",
              fmt::format("{}; make a key with: ssh-keygen -t ed25519", what));
}

/// Strings with a length of four bytes in front, as SSH writes them.
class BlobReader {
public:
  explicit BlobReader(std::string_view bytes) : bytes_(bytes) {}

  std::string_view string() {
    constexpr std::size_t head = 4;
    if (bytes_.size() < head) {
      malformed("it ends too early");
    }
    std::size_t size = 0;
    for (std::size_t i = 0; i < head; ++i) {
      size = size << 8 | static_cast<unsigned char>(bytes_[i]);
    }
    bytes_.remove_prefix(head);
    if (size > bytes_.size()) {
      malformed("it ends too early");
    }
    const auto result = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return result;
  }

  void expect_end() const {
    if (!bytes_.empty()) {
      malformed("bytes follow the key");
    }
  }

private:
  std::string_view bytes_;
};

void check_rsa(BlobReader& reader) {
  const auto exponent = reader.string();
  auto modulus = reader.string();
  modulus.remove_prefix(std::min(modulus.find_first_not_of('\0'), modulus.size()));
  if (exponent.empty() || modulus.empty()) {
    malformed("its numbers are empty");
  }
  const auto bits =
      (modulus.size() - 1) * 8 +
      static_cast<std::size_t>(std::bit_width(static_cast<unsigned char>(modulus.front())));
  if (bits < kLeastRsaBits || bits > kMostRsaBits) {
    unsupported(fmt::format(
        "an RSA key of {} bits is not taken ({} to {} are)", bits, kLeastRsaBits, kMostRsaBits));
  }
}

std::vector<std::string_view> key_words_of(std::string_view line) {
  constexpr std::string_view blanks = " \t";
  std::vector<std::string_view> words;
  for (;;) {
    line.remove_prefix(std::min(line.find_first_not_of(blanks), line.size()));
    if (line.empty()) {
      return words;
    }
    words.push_back(line.substr(0, line.find_first_of(blanks)));
    line.remove_prefix(words.back().size());
  }
}

/// The only line that counts.
std::string_view only_line(std::string_view text) {
  std::optional<std::string_view> found;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    const auto words = key_words_of(line);
    if (words.empty() || words.front().starts_with('#')) {
      continue;
    }
    if (found) {
      malformed("there is more than one line; give one key at a time");
    }
    found = line;
  }
  if (!found) {
    malformed("it is empty");
  }
  return *found;
}

} // namespace

PublicKey parse_public_key(std::string_view text) {
  if (text.size() > kPublicKeyBytes) {
    malformed(fmt::format("it has more than {} bytes", kPublicKeyBytes));
  }
  if (text.find("-----BEGIN") != std::string_view::npos) {
    throw Error(Reaction::Reject,
                "key.private",
                "this is a private key, which stays with its owner; give the file that ends in "
                ".pub");
  }
  const auto line = only_line(text);
  const auto words = key_words_of(line);
  if (is_other_algorithm(words.front())) {
    unsupported(fmt::format("keys of the kind {} are not taken", shown_value(words.front())));
  }
  if (find_algorithm(words.front()) == nullptr) {
    const bool options = std::any_of(words.begin() + 1, words.end(), [](std::string_view word) {
      return find_algorithm(word) != nullptr || is_other_algorithm(word);
    });
    if (options) {
      throw Error(Reaction::Reject,
                  "key.options",
                  fmt::format("options stand in front of the key ('{}'): leave them out, the "
                              "service writes its own; --expires and --permission limit a key",
                              shown_value(words.front())));
    }
    malformed(fmt::format("'{}' is no kind of key", shown_value(words.front())));
  }
  if (words.size() < 2) {
    malformed("the key's bytes are missing");
  }
  PublicKey key;
  key.algorithm = words[0];
  try {
    const auto bytes = base64_decode(words[1]);
    key.blob.assign(bytes.begin(), bytes.end());
  } catch (const Error&) {
    malformed("its base 64 is damaged");
  }
  if (words.size() > 2) {
    const auto begin = static_cast<std::size_t>(words[2].data() - line.data());
    key.comment = shown_value(line.substr(begin));
  }
  check_public_key(key);
  return key;
}

void check_public_key(const PublicKey& key) {
  const auto* algorithm = find_algorithm(key.algorithm);
  if (algorithm == nullptr) {
    unsupported(fmt::format("keys of the kind {} are not taken", shown_value(key.algorithm)));
  }
  BlobReader reader(key.blob);
  if (reader.string() != algorithm->name) {
    malformed("its bytes are of another kind than its name");
  }
  if (algorithm->name == "ssh-rsa") {
    check_rsa(reader);
  } else if (algorithm->curve.empty()) {
    if (reader.string().size() != kEd25519Bytes) {
      malformed("an Ed25519 key has 32 bytes");
    }
  } else {
    const bool right_curve = reader.string() == algorithm->curve;
    const auto point = reader.string();
    constexpr char uncompressed = 4;
    if (!right_curve || point.size() != algorithm->point_bytes || point.front() != uncompressed) {
      malformed("its point does not fit its curve");
    }
  }
  if (algorithm->security_key) {
    static_cast<void>(reader.string());
  }
  reader.expect_end();
}

std::string fingerprint_of(std::string_view blob) {
  auto text = base64_encode(hash_of(HashAlgorithm::Sha256, bytes_of(blob)).bytes());
  text.erase(text.find_last_not_of('=') + 1);
  return "SHA256:" + text;
}

std::string public_key_text(std::string_view algorithm, std::string_view blob) {
  return fmt::format("{} {}", algorithm, base64_encode(bytes_of(blob)));
}

} // namespace nixbuild::server

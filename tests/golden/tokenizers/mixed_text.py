"""The mixed text of the tokenizer goldens: documents in many scripts, code, numbers, white space,
emoji, combining marks, control characters, spelled special tokens. The same on every run.

Characters are those of Unicode 14, the version that PCRE2 10.42 knows.
"""
import random
import sys
import unicodedata

ALPHABETS = {
    "latin": ("bcdfghklmnprstvwz", "aeiou"),
    "european": ("bcčdďfghjklłmnñprřsšßtťvwzž", "aáàâäãåæeéèêëiíîïoóôöõøœuúùûüyý"),
    "greek": ("βγδζθκλμνξπρσςτφχψ", "αάεέηήιίοόυύωώ"),
    "cyrillic": ("бвгджзйклмнпрстфхцчшщ", "аеёиоуыэюяіїє"),
    "armenian": ("բգդզթժլխծկհձղճմյնշչպջռսվտրցփքֆ", "աեէըիոօ"),
    "georgian": ("ბგდვზთკლმნპჟრსტფქღყშჩცძწჭხჯჰ", "აეიოუ"),
    "hebrew": ("אבגדהוזחטיכלמנסעפצקרשת", "אוי"),
    "arabic": ("بتثجحخدذرزسشصضطظعغفقكلمنهي", "اوىَِّ"),
    "devanagari": ("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह", "ािीुूेैोौ्"),
    "bengali": ("কখগঘচছজঝটঠডঢণতথদধনপফবভমযরলশষসহ", "ািীুূেৈোৌ্"),
    "tamil": ("கஙசஞடணதநபமயரலவழளறன", "ாிீுூெேைொ்"),
    "thai": ("กขคงจฉชซญดตถทนบปผฝพฟมยรลวสหอ", "ะาิีึืุูเแโใไ่้"),
    "ethiopic": ("ሀለሐመሠረሰሸቀበተቸነኘአከወዐዘየደጀገጠጨጰጸፈፐ", "ሁሊሓሜሥሮ"),
    "hiragana": ("かきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもらりるれろ", "あいうえおんゃゅょっ"),
    "katakana": ("カキクケコサシスセソタチツテトナニヌネノハヒフヘホ", "アイウエオンャュョッー"),
    "han": ("的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生", "水火山川田力學體龍"),
    "hangul": ("가나다라마바사아자차카타파하고노도로모보소오조초", "구누두루무부수우주추은는이가를"),
}
EMOJI = ["😀", "🎉", "🍕", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "🇯🇵", "❤️", "☎️", "1️⃣", "🧑🏿‍🚀", "🙅‍♀️", "⌚", "‼️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
SPACES = [" ", "  ", "   ", "       ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n ", "\n    ", "\u00a0",
          "\u3000", "\u2003", "\u2028", "\u2029", "\u205f", "\u1680", "\u0085", "\v", "\f", "\u200b", "\u180e",
          "\ufeff", "\u001c", "\u001f"]
PUNCTUATION = list(".,;:!?-—–…'\"’‘“”«»()[]{}<>/\\|@#$%^&*_+=~`¡¿·、。，！？「」『』（）؟،۔।॥།•※§¶†‡°№™©®")
CONTRACTIONS = ["it's", "don't", "we'll", "I'm", "they've", "you're", "he'd", "IT'S", "DON'T", "WE'LL", "l'été", "rock'n'roll",
                "it’s", "'s", "'S", "'ſ", "'ll'll", "o'clock", "''re''"]
CODE = ["def {0}({1}, *{2}):", "    return {0}[{1}:{3}] + {2}  # {0}", "\tif ({0} != {1} && !{2}) {{", "\t\t{0}->{1} = 0x{3:x};",
        "}} // {0}", "std::vector<{0}> {1}({3});", "#include <{0}/{1}.h>", "<div class=\"{0}-{1}\">{2}</div>", "SELECT {0}, {1} FROM {2} WHERE id={3};",
        "const {0} = async ({1}) => {{ await {2}({1}); }};", "\\frac{{{0}}}{{{1}}} \\le \\sum_{{i=0}}^{{{3}}} x_i", "{0}@{1}.{2}.org", "https://{0}.org/{1}?q={2}&n={3}#x",
        "{{\"{0}\": [{3}, -{3}.5e-7, null], \"{1}\": \"{2}\\n\"}}", "--{0}={1} -x {3} | sort -u > /dev/null 2>&1"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "[CLS]", "[SEP]",
           "<|im_start|", "|im_end|>", "<|im_start|><|im_end|>", "<|IM_START|>", " <|im_start|> ", "<repo_name>", "<file_sep>", "<0x0A>",
           "<0xE2>", "▁", "▁▁", "Ġ", "Ċ", "##ing", "@@ ", "<start_of_turn>", "<extra_id_0>"]
DECOMPOSED = ["e\u0301", "a\u0308\u0323", "o\u0302\u0301", "ﬁ", "ﬄ", "①", "㎏", "½", "ｱ", "ﾊﾞ", "Å", "Å", "Ω", "ﷺ", "각", "각", "x\u0335\u0336\u0337",
              "é", "İ", "ı", "ß", "ẞ", "ǅ", "²", "ⅷ", "٣", "५", "๓", "𝟘", "𝔸", "𐍈", "𠀀", "丽", "\u0300", "\u20dd"]
EDGES = ["", " ", "  ", "\n", "\t", "\r\n", "\0", "\0\0a", "a", "é", "中", "😀", "\ufffd", "\ufffd\ufffd\ufffd", "\ud7ff\ue000", "\U0010ffff", "\U000f0000",
         "\ufdd0\uffff", " a", "a ", " a ", "\u0301", " \u0301", "a\u0301\u0301\u0301", "a" * 3000, " " * 2000, "\n" * 500, "ab" * 1500, "0" * 1000,
         "😀" * 300, "\u200d" * 50, "'" * 100, "a b" * 300, "\t \t \n" * 100, "." * 500, "中" * 700, " \u00a0 \u3000 x", "x \u00a0", "▁a▁ ▁", "\u001b[31mred\u001b[0m",
         "".join(chr(c) for c in range(1, 128)), "".join(chr(c) for c in range(128, 768)), "don't'll've'sd", "AbCdEfGh", "camelCaseSnake_case-kebab", "1,234,567.89", "12:34:56", "3.14e-10"]


class Writer:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.words = {}
        for name, (hard, soft) in ALPHABETS.items():
            self.words[name] = ["".join(self.rng.choice(hard) + (self.rng.choice(soft) if self.rng.random() < 0.8 else "")
                                        for _ in range(self.rng.randint(1, 4))) for _ in range(40)]
        self.phrases = {name: [self.run(name) for _ in range(25)] for name in ALPHABETS}
        self.code_points = [c for c in range(0x20, 0x2fa20) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]

    def word(self, script):
        words = self.words[script]
        word = words[int(len(words) * self.rng.random() ** 4)]  # some words are much more frequent
        draw = self.rng.random()
        return word.upper() if draw < 0.03 else word.capitalize() if draw < 0.15 else word

    def number(self):
        draw = self.rng.randrange(5)
        n = self.rng.randrange(10 ** self.rng.randint(1, 8))
        return [str(n), f"{n:,}", f"{n / 1000:.3f}", f"{n:x}", f"-{n}%"][draw]

    def run(self, script):
        space = "" if script in ("han", "hiragana", "katakana", "thai") else " "
        return "".join(self.word(script) + space for _ in range(self.rng.randint(3, 12)))

    def prose(self, scripts, length):
        out = []
        while len(out) < length:
            script = self.rng.choice(scripts)
            out.append(self.rng.choice(self.phrases[script]) if self.rng.random() < 0.8 else self.run(script))
            draw = self.rng.random()
            if draw < 0.25:
                out.append(self.rng.choice(PUNCTUATION) + " ")
            elif draw < 0.35:
                out += [self.number(), " "]
            elif draw < 0.42:
                out += [self.rng.choice(CONTRACTIONS), " "]
            elif draw < 0.5:
                out.append(".\n")
        return "".join(out)

    def code(self, length):
        lines = [self.rng.choice(CODE).format(self.word("latin"), self.word("latin"), self.word("european"), self.rng.randrange(5000))
                 for _ in range(length)]
        return "\n".join("    " * self.rng.randrange(4) + line for line in lines)

    def jumble(self, length):
        pools = [SPACES, PUNCTUATION, EMOJI, DECOMPOSED, SPECIAL, CONTRACTIONS]
        out = []
        for _ in range(length):
            draw = self.rng.random()
            if draw < 0.4:
                out.append(self.rng.choice(self.rng.choice(pools)))
            elif draw < 0.5:
                out.append(chr(self.rng.choice(self.code_points)))
            elif draw < 0.6:
                out.append(self.number())
            else:
                out.append(self.word(self.rng.choice(list(ALPHABETS))))
            if self.rng.random() < 0.4:
                out.append(" ")
        return "".join(out)

    def broken(self, length):
        """Text cut into bytes, some of them changed, then read as UTF-8 with replacement."""
        data = bytearray(self.jumble(length).encode())
        for _ in range(len(data) // 20):
            data[self.rng.randrange(len(data))] = self.rng.randrange(256)
        return data.decode("utf-8", "replace")


def documents():
    writer = Writer(20)
    out = list(EDGES) + SPECIAL + DECOMPOSED + SPACES + CONTRACTIONS
    scripts = list(ALPHABETS)
    for i in range(150):
        if i % 3 == 0:
            out.append(writer.prose([scripts[i // 3 % len(scripts)]], 110))
        elif i % 3 == 1:
            out.append(writer.prose(["latin", "european", "han", "cyrillic"], 130))
        else:
            out.append(writer.prose(scripts, 110))
    for _ in range(50):
        out.append(writer.code(60))
    for _ in range(60):
        out.append(writer.jumble(140))
    for _ in range(25):
        out.append(writer.broken(100))
    for text in out:
        text.encode("utf-8")  # nothing that UTF-8 cannot say
    return out


if __name__ == "__main__":
    texts = documents()
    print(len(texts), "documents,", sum(len(t.encode()) for t in texts), "bytes", file=sys.stderr)

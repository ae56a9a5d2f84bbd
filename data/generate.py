#!/usr/bin/env python3
"""Writes visits.ndjson and loyalty.csv beside itself, always the same, and prints what README.md tells of them.

    python3 data/generate.py
"""

import json
import random
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus

HERE = Path(__file__).parent
CHANCE = random.Random(20261123)
KNOWN, ANONYMOUS, DEVICES = 2800, 140, 200  # visitors with a thirdPartyId, without, with a second device
ROWS, UNKNOWN, REPEATED = 4000, 320, 900
ALL_EMPTY, SHORT = 10, 6

# Per language: first names, cities with a store, store names.
PLACES = {
    "en": (["Olivia", "Jack", "Anne Marie", "D'Arcy"], ["London", "Cork"], ["High Street", "Canal, East", 'The "Old" Mill']),
    "fr": (["Chloé", "Loïc", "Jean-François"], ["Paris", "Besançon"], ["Gare du Nord", "Halles, niveau 2", 'Chez "Zoé"']),
    "de": (["Jürgen", "Käthe", "Björn"], ["Köln", "Gießen"], ["Am Ring", "Bahnhof, Gleis 1", "Süd+West"]),
    "pl": (["Łukasz", "Małgorzata", "Żaneta"], ["Łódź", "Kraków"], ["Rynek 4", "Galeria, piętro 2", "Śródmieście"]),
    "el": (["Ελένη", "Γιώργος", "Αθηνά"], ["Αθήνα", "Πάτρα"], ["Σύνταγμα", "Λιμάνι, 2"]),
    "uk": (["Олена", "Тарас", "Соломія"], ["Київ", "Львів"], ["Поділ", "Ринок, 7"]),
    "ar": (["ليلى", "يوسف", "مريم"], ["القاهرة", "دبي"], ["وسط البلد", "المول 3"]),
    "hi": (["प्रिया", "अर्जुन"], ["दिल्ली", "पुणे"], ["कनॉट प्लेस", "बाज़ार 5"]),
    "ja": (["さくら", "健太", "陽菜"], ["東京", "大阪"], ["渋谷店", "駅前、2階"]),
    "zh": (["伟", "小明", "芳"], ["上海", "成都"], ["南京路", "春熙路 8"]),
}
WEIGHTS = [30, 20, 18, 8, 5, 5, 4, 4, 4, 4]
EMOJI = ["☕", "🌸", "🚲", "👩‍🚀", "🇪🇺"]
TIERS = ["basic", "silver", "gold", "platinum"]
PAGES = ["home", "shoes", "sale", "basket", "gift cards", "account"]


def pc_id(n):
    """Like Target's own: when, chance, and where its profile is kept."""
    hint = CHANCE.choice(["", ".28_0", ".34_0", ".37_0"])
    return f"{1763900000000 + n * 7919}-{CHANCE.randrange(10**6):06}{hint}"


def visits():
    calls, languages = [], {}
    for n in range(KNOWN + ANONYMOUS):
        language = CHANCE.choices(list(PLACES), WEIGHTS)[0]
        third_party_id = f"crm-{100000 + n * 37}" if n < KNOWN else None
        for device in ["desktop", "phone"] if n < DEVICES else [None]:
            call = {"pcId": pc_id(n)}
            if third_party_id:
                call["thirdPartyId"] = third_party_id
                languages[third_party_id] = language
            call["profile"] = {"lang": language, "page": CHANCE.choice(PAGES)}
            if device:
                call["profile"]["device"] = device
            calls.append(call)
    CHANCE.shuffle(calls)
    return calls, languages


def cell(value, how):
    """A value as it is written: cells are split first (quotes), then form-decoded once (`+`, `%XX`)."""
    if how == "percent":
        return quote(value, safe="")
    if how == "plus":
        return quote_plus(value)
    text = value.replace("%", "%25").replace("+", "%2B")
    if how == "quoted" or "," in text or '"' in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def first_time(language):
    names, cities, stores = PLACES[language]
    name = CHANCE.choice(names)
    if CHANCE.random() < 0.04:
        name += " " + CHANCE.choice(EMOJI)
    spent = date(2026, 9, 1) - timedelta(days=CHANCE.randrange(400))
    who = [CHANCE.choice(cities), name, CHANCE.choice(stores)]
    return {"points": CHANCE.randrange(0, 8500, 5), "who": who, "spent": spent}


def bought_again(visitor):
    visitor["points"] += CHANCE.randrange(5, 120, 5)
    visitor["spent"] += timedelta(days=CHANCE.randrange(1, 15))


def values(visitor):
    points = visitor["points"]
    return [TIERS[min(points // 2200, 3)], str(points), *visitor["who"], str(visitor["spent"])]


def loyalty(languages):
    known = CHANCE.sample(sorted(languages), ROWS - UNKNOWN - REPEATED - ALL_EMPTY - 2)
    ids = known + CHANCE.choices(known, k=REPEATED) + [f"crm-{900001 + n * 11}" for n in range(UNKNOWN)]
    CHANCE.shuffle(ids)
    rows, visitors = [], {}
    for id in ids:
        if id in visitors:
            bought_again(visitors[id])
        else:
            visitors[id] = first_time(languages.get(id, "en"))
        row = values(visitors[id])
        for n in (2, 4, 5):
            if CHANCE.random() < 0.05:
                row[n] = ""
        ways = CHANCE.choices(["raw", "percent", "plus", "quoted"], [80, 8, 7, 5], k=len(row))
        rows.append([id] + [cell(*it) for it in zip(row, ways)])
    for row in rows[100 : 100 + SHORT * 500 : 500]:
        del row[4:]
    for n in range(ALL_EMPTY):
        id = known[n] if n % 5 else f"crm-{950000 + n}"
        rows.insert(250 + n * 370, [id] + [""] * 6)
    rows.insert(1199, ["crm%2B42", "gold", "2500", "Paris", "Zoé", "Halles", "2026-10-03"])
    rows.insert(2799, [known[0], "gold", "100%zz", "Köln", "Jürgen", "Am Ring", "2026-09-12"])
    header = "batch=thirdPartyId,tier,points,city,firstName,favouriteStore,lastPurchase"
    return [header] + [",".join(row) for row in rows]


def write(name, lines):
    (HERE / name).write_bytes("".join(line + "\n" for line in lines).encode())


def main():
    calls, languages = visits()
    lines = loyalty(languages)
    write("visits.ndjson", [json.dumps(it, ensure_ascii=False, separators=(",", ":")) for it in calls])
    write("loyalty.csv", lines)

    empty, failed, not_found, updated = outcomes = [], [], [], []
    for n, line in enumerate(lines[1:], 2):
        if "crm%2B" in line or "%zz" in line:
            failed.append(n)
        elif line.endswith(",,,,,,"):
            empty.append(n)
        else:
            (updated if line.split(",")[0] in languages else not_found).append(n)
    print(len(calls), "visits of", KNOWN + ANONYMOUS, "visitors;", len(lines) - 1, "rows")
    for name, found in zip(["ignored", "failed", "not found", "updated"], outcomes):
        print(len(found), name, found[:10])
    print("short rows", [n for n in updated + not_found if lines[n - 1].count(",") == 3])
    for what in ['""', "%20", "+", "%2BWest", "🚀", "%F0%9F", "店", "ليلى", "प्रिया", ",,"]:
        print(what, [n for n in updated if what in lines[n - 1]][:3])


main()

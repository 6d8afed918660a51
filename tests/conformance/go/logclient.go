// An independent client of a Tracebond log: golang.org/x/mod/sumdb/tlog and note alone decide.
//
// It opens the checkpoint with the log's verifier key, reads authenticated hashes out of C2SP tlog-tiles, rebuilds
// the root, and makes and checks inclusion and consistency proofs. Line by line it then checks proofs that the ledger
// made itself, read from standard input. One JSON object with the counts goes to standard output; any failure is an exit 1.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type served struct {
	url     string
	tamper  string
	fetched map[string]bool
}

func (s *served) Height() int { return height }

func (s *served) SaveTiles(tiles []tlog.Tile, data [][]byte) {}

// The path of C2SP tlog-tiles is the one of x/mod without the height.
func (s *served) path(tile tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
}

func (s *served) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := s.path(tile)
		found, err := get(s.url+path, "application/octet-stream", "immutable")
		if err != nil {
			return nil, err
		}
		s.fetched[path] = true
		if path == s.tamper {
			found[len(found)-1] ^= 1
		}
		data[i] = found
	}
	return data, nil
}

func get(url, kind, cache string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != kind {
		return nil, fmt.Errorf("%s: %s, %s", url, answer.Status, answer.Header.Get("Content-Type"))
	}
	if !strings.Contains(answer.Header.Get("Cache-Control"), cache) {
		return nil, fmt.Errorf("%s: Cache-Control %q", url, answer.Header.Get("Cache-Control"))
	}
	return body, nil
}

func must(err error, what string, args ...interface{}) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", fmt.Sprintf(what, args...), err)
		os.Exit(1)
	}
}

// The first three lines of a checkpoint (C2SP tlog-checkpoint); x/mod's own ParseTree knows one fixed origin only.
func parse(text, origin string) (tlog.Tree, error) {
	lines := strings.Split(text, "\n")
	var tree tlog.Tree
	if len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return tree, fmt.Errorf("checkpoint %q", text)
	}
	if _, err := fmt.Sscanf(lines[1], "%d", &tree.N); err != nil {
		return tree, err
	}
	hash, err := tlog.ParseHash(lines[2])
	tree.Hash = hash
	return tree, err
}

// A proof by the ledger: inclusion {index, size, leaf, proof, root} or consistency {size1, size, root1, proof, root}.
type claim struct {
	Index, Size, Size1 int64
	Leaf, Root, Root1  string
	Proof              []string
}

func hash(text string) (h tlog.Hash) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil && len(raw) != len(h) {
		err = fmt.Errorf("%d bytes", len(raw))
	}
	must(err, "hash %q", text)
	copy(h[:], raw)
	return h
}

func hashes(texts []string) (found []tlog.Hash) {
	for _, text := range texts {
		found = append(found, hash(text))
	}
	return found
}

func claims(tree tlog.Tree) (inclusions, consistencies int) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c claim
		must(json.Unmarshal(lines.Bytes(), &c), "claim %s", lines.Text())
		proof, root := hashes(c.Proof), hash(c.Root)
		if c.Size == tree.N && root != tree.Hash {
			must(fmt.Errorf("root differs"), "claim %s", lines.Text())
		}
		if c.Leaf != "" {
			must(tlog.CheckRecord(tlog.RecordProof(proof), c.Size, root, c.Index, hash(c.Leaf)), "claim %s", lines.Text())
			inclusions++
		} else {
			must(tlog.CheckTree(tlog.TreeProof(proof), c.Size, root, c.Size1, hash(c.Root1)), "claim %s", lines.Text())
			consistencies++
		}
	}
	must(lines.Err(), "standard input")
	return inclusions, consistencies
}

func main() {
	if len(os.Args) != 3 {
		must(fmt.Errorf("logclient <url of the log, with a slash at the end> <verifier key>"), "usage")
	}
	url, key := os.Args[1], os.Args[2]
	verifier, err := note.NewVerifier(key)
	must(err, "verifier key")
	message, err := get(url+"checkpoint", "text/plain; charset=utf-8", "no-cache")
	must(err, "checkpoint")
	opened, err := note.Open(message, note.VerifierList(verifier))
	must(err, "note")
	tree, err := parse(opened.Text, verifier.Name())
	must(err, "checkpoint text")
	if _, err := note.Open([]byte(strings.Replace(string(message), "\n", "x\n", 1)), note.VerifierList(verifier)); err == nil {
		must(fmt.Errorf("a changed checkpoint is accepted"), "note")
	}

	tiles := &served{url: url, fetched: map[string]bool{}}
	reader := tlog.TileHashReader(tree, tiles)
	root, err := tlog.TreeHash(tree.N, reader)
	must(err, "root")
	if root != tree.Hash {
		must(fmt.Errorf("%v is not %v", root, tree.Hash), "root")
	}
	inclusions, consistencies := 0, 0
	for n := int64(0); n < tree.N; n += 1 + n/7 {
		leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
		must(err, "leaf %d", n)
		proof, err := tlog.ProveRecord(tree.N, n, reader)
		must(err, "inclusion of %d", n)
		must(tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaf[0]), "inclusion of %d", n)
		if tlog.CheckRecord(proof, tree.N, tree.Hash, (n+1)%tree.N, leaf[0]) == nil {
			must(fmt.Errorf("accepted for another index"), "inclusion of %d", n)
		}
		inclusions++
		old, err := tlog.TreeHash(n+1, reader)
		must(err, "root at %d", n+1)
		chain, err := tlog.ProveTree(tree.N, n+1, reader)
		must(err, "consistency from %d", n+1)
		must(tlog.CheckTree(chain, tree.N, tree.Hash, n+1, old), "consistency from %d", n+1)
		old[0] ^= 1
		if tlog.CheckTree(chain, tree.N, tree.Hash, n+1, old) == nil {
			must(fmt.Errorf("accepted for another root"), "consistency from %d", n+1)
		}
		consistencies++
	}
	refused := 0
	for path := range tiles.fetched {
		bad := &served{url: url, tamper: path, fetched: map[string]bool{}}
		tampered := tlog.TileHashReader(tree, bad)
		failed := false
		for n := int64(0); n < tree.N && !failed; n += 64 {
			leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
			must(err, "leaf %d", n)
			// Older x/mod leaves some tiles of a batch to the proof's own check: either one must refuse.
			proof, err := tlog.ProveRecord(tree.N, n, tampered)
			failed = err != nil || tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaf[0]) != nil
		}
		if !failed {
			must(fmt.Errorf("a tampered tile is accepted"), "%s", path)
		}
		refused++
	}
	claimedInclusions, claimedConsistencies := claims(tree)
	must(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"size": tree.N, "inclusions": inclusions, "consistencies": consistencies, "tampered_refused": refused,
		"tiles": len(tiles.fetched), "claimed_inclusions": claimedInclusions, "claimed_consistencies": claimedConsistencies,
	}), "output")
}

package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
)

const envPrefix = "PENSTOCK_"

// Load reads the file at path (empty: none), lays the environment over it and
// the defaults under it, and lists every fault, joined. environ is what
// os.Environ returns. The result is not yet checked as a whole: flags may still
// change it, and Start validates.
func Load(path string, environ []string) (Config, error) {
	c := DefaultConfig()
	var faults []error
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("config: %w", err)
		}
		if err := c.setYAML(data); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", path, err))
		}
	}
	faults = append(faults, c.setEnviron(environ))
	return c, errors.Join(faults...)
}

// Set gives one key a value, as a line of the file does.
func (c *Config) Set(name, value string) error {
	for _, k := range Keys() {
		if k.Name == name {
			return k.apply(c, name, value)
		}
	}
	return &ConfigError{name, "", "is not a known key; the nearest is " + nearestKey(name)}
}

func (k Key) apply(c *Config, shown, value string) error {
	if err := k.set(c, value); err != nil {
		return &ConfigError{shown, value, err.Error()}
	}
	return nil
}

func (c *Config) setYAML(data []byte) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return errors.New("config: the file must be flat: one `key: value` a line")
	}
	var faults []error
	seen := make(map[string]int)
	for pairs := doc.Content[0].Content; len(pairs) >= 2; pairs = pairs[2:] {
		name, value := pairs[0], pairs[1]
		if first, twice := seen[name.Value]; twice {
			faults = append(faults, fmt.Errorf("line %d: %w", name.Line, &ConfigError{name.Value, "", fmt.Sprintf("is already set in line %d", first)}))
			continue
		}
		seen[name.Value] = name.Line
		err := c.setNode(name.Value, value)
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", name.Line, err))
		}
	}
	return errors.Join(faults...)
}

func (c *Config) setNode(name string, value *yaml.Node) error {
	if value.Kind == yaml.ScalarNode {
		if value.Tag == "!!null" {
			return c.Set(name, "")
		}
		return c.Set(name, value.Value)
	}
	if value.Kind == yaml.MappingNode {
		return &ConfigError{name, "", "keys are flat: write " + name + ".x: value instead of nesting"}
	}
	return &ConfigError{name, "", "must be one value; lists are written with commas: a,b,c"}
}

// setEnviron applies the variables that begin with PENSTOCK_. One that is no
// key is an error, except the ones that Kubernetes sets in every pod beside a
// service called penstock.
func (c *Config) setEnviron(environ []string) error {
	kubernetes := regexp.MustCompile(`^PENSTOCK(_.*)?_(SERVICE_(HOST|PORT.*)|PORT(_[0-9]+_(TCP|UDP).*)?)$`)
	byEnv := make(map[string]Key)
	for _, k := range Keys() {
		byEnv[k.Env()] = k
	}
	var faults []error
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		k, known := byEnv[name]
		switch {
		case known:
			if err := k.apply(c, name, value); err != nil {
				faults = append(faults, err)
			}
		case kubernetes.MatchString(name):
		default:
			key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "_", "."))
			faults = append(faults, &ConfigError{name, "", "is not the variable of a known key; the nearest is " + envName(nearestKey(key))})
		}
	}
	return errors.Join(faults...)
}

// nearestKey is the known key with the smallest edit distance.
func nearestKey(name string) string {
	best, least := "", -1
	for _, k := range Keys() {
		if d := levenshtein.ComputeDistance(name, k.Name); least < 0 || d < least {
			best, least = k.Name, d
		}
	}
	return best
}

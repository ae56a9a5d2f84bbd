// Checks the dashboard on standard input by Grafana's own types: what it lacks, what Grafana does not know, and values that are
// out of range. It prints a line for each fault, and nothing if there is none.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	faults, err := check(os.Stdin)
	if err != nil {
		faults = append(faults, err.Error())
	}
	sort.Strings(faults)
	for _, fault := range faults {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

func check(file io.Reader) (faults []string, err error) {
	raw, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	plugins.RegisterDefaultPlugins()
	var strict dashboard.Dashboard
	faults = append(faults, each(strict.UnmarshalJSONStrict(raw))...)
	var read dashboard.Dashboard
	if err := json.Unmarshal(raw, &read); err != nil {
		return faults, err
	}
	faults = append(faults, each(read.Validate())...)
	for _, one := range read.Panels {
		if one.Panel != nil && one.Panel.Type != "row" {
			if _, known := cog.ConfigForPanelcfgVariant(one.Panel.Type); !known {
				faults = append(faults, fmt.Sprintf("Grafana has no panel of the type %q", one.Panel.Type))
			}
		}
	}
	// What the types have no place for is gone when it is written again.
	written, err := json.Marshal(read)
	if err != nil {
		return faults, err
	}
	var before, after any
	if err := errors.Join(json.Unmarshal(raw, &before), json.Unmarshal(written, &after)); err != nil {
		return faults, err
	}
	return append(faults, lost("dashboard", before, after)...), nil
}

// The faults that an error holds.
func each(err error) (faults []string) {
	var all cog.BuildErrors
	if errors.As(err, &all) {
		for _, one := range all {
			faults = append(faults, one.Error())
		}
	} else if err != nil {
		faults = append(faults, err.Error())
	}
	return faults
}

// The paths that one value has and the other lacks.
func lost(path string, before, after any) (faults []string) {
	switch before := before.(type) {
	case map[string]any:
		after, _ := after.(map[string]any)
		for name, value := range before {
			rest, there := after[name]
			if !there {
				faults = append(faults, fmt.Sprintf("%s.%s: Grafana knows no such field here", path, name))
				continue
			}
			faults = append(faults, lost(path+"."+name, value, rest)...)
		}
	case []any:
		after, _ := after.([]any)
		for at, value := range before {
			if at < len(after) {
				faults = append(faults, lost(fmt.Sprintf("%s[%d]", path, at), value, after[at])...)
			} else {
				faults = append(faults, fmt.Sprintf("%s[%d]: Grafana leaves it out", path, at))
			}
		}
	}
	return faults
}

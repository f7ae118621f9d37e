package kafka

// shapes has the form of each request that package kmsg reads, by key. A test
// compares them with what kmsg writes.
func shapes() map[int16]string {
	return map[int16]string{
		keyFetch:       "w:0-14 w w w:3 b:4 w:7 w:7 [ s:0-12 u:13 [ w w:9 q w:12 q:5 w ] ] [ s:7-12 u:13 { w } ]:7 s:11",
		2:              "w b:2 [ s [ w w:4 q w:0-0 ] ] w:10",
		3:              "[ u:10 s ] b:4 b:8-10 b:8",
		8:              "s w:1 s:1 s:7 q:2-4 [ s [ w q q:1-1 w:6 s ] ]",
		9:              "s:0-7 [ s { w } ]:0-7 [ s s:9 w:9 [ s { w } ] ]:8 b:7",
		10:             "s:0-3 b:1 { s }:4",
		keyJoinGroup:   "s w w:1 s s:5 s [ s y ] s:8",
		12:             "s w s s:3",
		13:             "s s:0-2 [ s s s:5 ]:3",
		keySyncGroup:   "s w s s:3 s:5 s:5 [ s y ]",
		15:             "{ s } b:3",
		16:             "{ s }:4 { s }:5",
		17:             "s",
		keyApiVersions: "s:3 s:3",
		19:             "[ s w h [ w { w } ] [ s s ] ] w b:1",
		20:             "{ s }:0-5 [ s u ]:6 w",
		21:             "[ s [ w q ] ] w",
		22:             "s w q:3 h:3",
		23:             "w:3 [ s [ w w:2 w ] ]",
		32:             "[ b s { s } ] b:1 b:3",
		33:             "[ b s [ s s ] ] b",
		35:             "[ s { w } ]",
		36:             "y",
		37:             "[ s w [ { w } ] ] w b",
		42:             "{ s }",
		43:             "b:1 [ s { w } ] w",
		44:             "[ b s [ s b s ] ] b",
		45:             "w b:1 [ s [ w { w } ] ]",
		46:             "w [ s { w } ]",
		47:             "s [ s [ w ] ]",
		60:             "b b:1 b:2",
		61:             "[ s { w } ]",
		68:             "s s w s s w { s } s:1 s [ u { w } ]",
		69:             "{ s } b",
		75:             "[ s ] w ( s w )",
	}
}

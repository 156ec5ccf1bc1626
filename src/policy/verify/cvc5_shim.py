# Reads SMT-LIB commands from standard input and answers them, by the `cvc5` package of PyPI, which
# has no executable. `portcullis policy verify` runs this as `python3 -c`; it writes no file.
import sys

# With -c the first entry is the current folder: nothing is to be imported from there.
sys.path = [entry for entry in sys.path if entry]
import cvc5

if sys.argv[1:] == ["--version"]:
    print("This is cvc5 version", cvc5.__version__)
    sys.exit(0)

terms = cvc5.TermManager()


def fresh():
    solver = cvc5.Solver(terms)
    symbols = cvc5.SymbolManager(terms)
    return solver, symbols, cvc5.InputParser(solver, symbols)


solver, symbols, parser = fresh()


def run(text):
    global solver, symbols, parser
    if text.strip() == "(reset)":
        solver, symbols, parser = fresh()
        return
    try:
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "stdin")
        while not (command := parser.nextCommand()).isNull():
            sys.stdout.write(str(command.invoke(solver, symbols) or ""))
    except Exception as error:
        print('(error "%s")' % str(error).replace('"', "'").replace("\n", " "))
    sys.stdout.flush()


command, depth, quote, comment = [], 0, None, False
for line in sys.stdin:
    for character in line:
        if comment:
            comment = character != "\n"
            continue
        if quote is None and character == ";":
            comment = True
            continue
        command.append(character)
        if quote is not None:
            quote = None if character == quote else quote
        elif character in '"|':
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                text, command = "".join(command), []
                if text.strip() == "(exit)":
                    sys.exit(0)
                run(text)
